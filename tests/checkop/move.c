#include "tests/checkop/checkop.h"

const struct check check_move[] = {{0}};
