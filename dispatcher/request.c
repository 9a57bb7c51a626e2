#include "dispatcher/request.h"

#include <sys/socket.h>

#include "common/mem.h"
#include "dispatcher/server.h"

const char *request_header(const struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name);
}

const char *request_query(const struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn, MHD_GET_ARGUMENT_KIND, name);
}

void request_park(struct request *r)
{
    if (r->parked)
        return;
    r->parked = r->held = true;
    MHD_suspend_connection(r->conn);
}

void request_unpark(struct request *r)
{
    if (!r->parked)
        return;
    r->parked = false;
    MHD_resume_connection(r->conn);
    server_wake(r->server);
}

bool request_gone(const struct request *r)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;
    return info && recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void request_set_header(struct request *r, const char *name, const char *value)
{
    char *copy = r->n_headers < REQUEST_HEADERS ? mem_strdup(value) : NULL;
    if (copy)
        r->header[r->n_headers++] = (struct request_header){name, copy};
}

void request_answer(struct request *r, int status, struct MHD_Response *response)
{
    if (r->answered) {
        if (response)
            MHD_destroy_response(response);
        return;
    }
    r->answered = true;
    r->status = status;
    r->response = response;
    for (int i = 0; response && i < r->n_headers; i++)
        MHD_add_response_header(response, r->header[i].name, r->header[i].value);
    if (response && server_draining(r->server))
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    request_unpark(r);
}
