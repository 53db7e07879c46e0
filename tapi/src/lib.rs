//! Client SDK: tunnels, and sockets that live inside them.
