//! Wire format of the TSCF tunnel protocol: bytes to typed units and back.
