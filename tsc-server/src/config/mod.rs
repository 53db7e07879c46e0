//! The configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! ```text
//!   file --> Document (tree with places) --> readers (single values) --> checks (what must agree) --> Config
//!                ^ TSC_… variables, flags          \_______ every error, with line and fix ______/
//! ```
//!
//! The objects and keys are those of the vendor's ACLI where it has them: `tscf-config`, `tscf-interface`,
//! `tscf-port`, `tscf-address-pool`, `tscf-protocol-policy`, `tscf-data-flow`. `docs/configuration.md` explains each key and maps the names.
//!
//! ```no_run
//! use tsc_server::config::{Config, Environment, Overrides};
//!
//! let environment = Environment::from_process();
//! match Config::load("tsc-server.toml".as_ref(), &environment, &Overrides::default()) {
//!     Ok(config) => println!("{config}"),
//!     Err(errors) => eprintln!("{errors}"),
//! }
//! ```

mod check;
mod check_egress;
mod defaults;
mod document;
mod egress;
mod error;
mod files;
mod load;
mod model;
mod print;
mod print_egress;
mod range;
mod read;
mod read_egress;
mod read_interface;
mod reload;
mod source;
mod tls;
mod tokens;
mod value;

pub use egress::{
    DataFlowConfig, Egress, MAX_GROUP, MAX_POLICIES, MAX_RATE, PolicyConfig, PolicyEgress,
    TransportType, TunEgressConfig, UdpFiltering, UserSpaceConfig,
};
pub use error::{ConfigError, ConfigErrorKind, ConfigErrors, Place};
pub use load::DEFAULT_CONFIG;
pub(crate) use load::{SYSTEM_KEYS, variable};

pub use model::{
    Alternate, AssignedServices, Authentication, Config, DtlsBackend, InterfaceConfig,
    InterfaceLimits, LogFormat, LogLevel, MAX_ADDRESSES, MAX_POOL_ADDRESSES, MAX_TUNNELS,
    PoolConfig, PortConfig, RoutedPrefixes, SystemConfig, Timers, TlsProfile, TokenAuthentication,
    TraceRedaction, Transports,
};
pub use range::{AddressRange, RangeError};
pub use source::{ENVIRONMENT_PREFIX, Environment, MAX_FILE, Overrides, PemRef};
pub use tokens::{MAX_IDENTITY, MAX_TOKEN_FILE, TokenError, TokenErrorKind, TokenTable};
