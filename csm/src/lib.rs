//! State machines of both ends of a TSCF tunnel, sans-IO.
