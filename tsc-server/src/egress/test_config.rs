//! Configurations of the unit tests.

use crate::config::{Config, Overrides};

/// With an interface whose clients get addresses of the pool `pool`, which is among `tables`.
pub(crate) fn parse(tables: &str) -> Config {
    let text = format!(
        r#"
[[tscf-interface]]
realm-id = "access"
local-address-pools = ["pool"]
authentication = "none"
[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = "tcp"
{tables}"#
    );
    Config::parse_with(&text, "test", &Overrides::default()).unwrap()
}
