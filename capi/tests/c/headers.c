/* The headers alone, in either order, without any feature macro. */
#include "tsc_socket_api.h"
#include "tsc_control_api.h"

int main(void)
{
    return tsc_version() == NULL || TSC_FD_SETSIZE != 8 * (int)sizeof(tsc_fd_set);
}
