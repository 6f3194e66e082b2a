"""What the tests share: real processes, real upstreams, real sockets."""
