/* api_files.h -- a finished job's files: video, thumbnail, report. */
#ifndef DISPATCHER_API_FILES_H
#define DISPATCHER_API_FILES_H

#include "dispatcher/request.h"

void api_files_video(struct request *r);
void api_files_thumbnail(struct request *r);
void api_files_report(struct request *r);

#endif
