#include "tests/checkop/checkop.h"

const struct check check_attention[] = {{0}};
