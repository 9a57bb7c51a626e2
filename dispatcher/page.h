/* page.h -- the web page: three files of web/, inside the program since its build. */
#ifndef DISPATCHER_PAGE_H
#define DISPATCHER_PAGE_H

#include "dispatcher/request.h"

void page_index(struct request *r);
void page_style(struct request *r);
void page_script(struct request *r);
void page_board(struct request *r);

#endif
