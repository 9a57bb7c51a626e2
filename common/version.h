/* version.h -- which build this is: the release's number and the commit it was built from. */
#ifndef COMMON_VERSION_H
#define COMMON_VERSION_H

const char *version_text(void);  /* "0.1.0" */
const char *version_build(void); /* "3f2a91c", with "-dirty" for a changed tree; the number again outside a git tree */

#endif
