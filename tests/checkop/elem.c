#include "tests/checkop/checkop.h"

const struct check check_elem[] = {{0}};
