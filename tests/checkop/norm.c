#include "tests/checkop/checkop.h"

const struct check check_norm[] = {{0}};
