//! Embedded IP stack: inner sockets over inner IP packets, sans-IO.
