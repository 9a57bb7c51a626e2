#include "tests/checkop/checkop.h"

const struct check check_conv[] = {{0}};
