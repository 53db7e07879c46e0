//! From file, environment and flags to a checked [`Config`].

use std::path::Path;

use super::check::{Checker, credentials};
use super::document::{Document, KeyPath};
use super::error::{ConfigError, ConfigErrorKind, ConfigErrors, Place};
use super::files::Files;
use super::model::Config;
use super::source::{ENVIRONMENT_PREFIX, Environment, KeyOverride, MAX_FILE, Overrides, read_text};
use super::{read, read_egress, read_interface};

/// The commented example, `tsc-server.toml` of the package: every key with its default.
pub const DEFAULT_CONFIG: &str = include_str!("../../tsc-server.toml");

/// Keys of `[tscf-config]` that the environment can set: all but `trace-insecure-decryption-secrets`, which is to be seen in the file.
pub(crate) const SYSTEM_KEYS: &[&str] = &[
    "element-id",
    "keepalive-timer",
    "keepalive-timer-datagram",
    "tunnel-persistence-time",
    "workers",
    "gather-time",
    "busy-poll",
    "max-tunnels",
    "max-half-open",
    "busy-when-overloaded",
    "address-quarantine",
    "graceful-stop-deadline",
    "log-level",
    "log-format",
    "trace-file",
    "trace-redaction",
    "trace-file-size",
    "trace-files",
    "trace-file-time",
    "trace-outer",
    "trace-directory",
    "control-socket",
];

/// Variables that begin like ours and are read elsewhere.
const OTHER_VARIABLES: &[&str] = &["TSC_CONFIG"];

/// Most profiles, pools, interfaces, policies and data flows of one file.
const MAX_TABLES: usize = 256;

/// The environment variable that sets a key of `[tscf-config]`: `log-level` is set by `TSC_LOG_LEVEL`.
pub(crate) fn variable(key: &str) -> String {
    format!(
        "{ENVIRONMENT_PREFIX}{}",
        key.to_ascii_uppercase().replace('-', "_")
    )
}

impl Config {
    /// Reads and checks the file at `path`, below `environment`, below `overrides`. Relative paths in the
    /// file start at the file's directory.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the file.
    pub fn load(
        path: &Path,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let origin = path.display().to_string();
        let text = read_text(path, MAX_FILE).map_err(|error| ConfigError {
            place: Place::File(origin.clone()),
            key: String::new(),
            kind: ConfigErrorKind::Unreadable {
                reason: error.to_string(),
            },
            help: "name an existing file with --config; --print-default-config writes one to start from"
                .to_owned(),
        })?;
        // Absolute, so that the printed configuration means the same anywhere.
        let base = std::path::absolute(path).ok();
        let base = base.as_deref().and_then(Path::parent);
        Self::read(&text, &origin, base, environment, overrides)
    }

    /// Reads and checks a configuration text. `origin` names it in errors. Relative paths are used as they
    /// stand; nothing overrides the text.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigErrors> {
        Self::parse_with(text, origin, &Overrides::default())
    }

    /// As [`Config::parse`], with flags and with files held in memory.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text.
    pub fn parse_with(
        text: &str,
        origin: &str,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        Self::read(text, origin, None, &Environment::default(), overrides)
    }

    fn read(
        text: &str,
        origin: &str,
        base: Option<&Path>,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let (variables, mut errors) = variables(environment);
        let parsed = Document::parse(origin, text);
        let mut document = match parsed {
            Ok(document) => document,
            Err(syntax) => {
                errors.extend(syntax);
                return Err(ConfigErrors::new(errors));
            }
        };
        for set in variables.into_iter().chain(overrides.keys.iter().cloned()) {
            document.set(set);
        }
        let files = Files {
            base,
            environment,
            overrides,
        };
        let config = assemble(&document, &files);
        errors.extend(document.into_errors());
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors::new(errors))
        }
    }

    /// What is allowed, but that an operator should know; one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.system.trace_insecure_decryption_secrets {
            warnings.push(
                "INSECURE: the capture file gets the secrets that decrypt all TLS and DTLS connections of this server"
                    .to_owned(),
            );
        }
        for interface in &self.interfaces {
            let name = &interface.name;
            for port in interface
                .ports
                .iter()
                .filter(|port| port.transports.clear())
            {
                warnings.push(format!(
                    "interface {name}: port {} is clear: no secrecy, integrity or replay protection \
                     against anyone on the path",
                    port.listen
                ));
            }
            if matches!(interface.authentication, super::Authentication::None) {
                warnings.push(format!("interface {name}: clients are not authenticated"));
            }
        }
        let used = |pool: &str| {
            let mut named = self.interfaces.iter().flat_map(|i| &i.pools);
            named.any(|name| name == pool)
        };
        for pool in self.pools.iter().filter(|pool| !used(&pool.name)) {
            warnings.push(format!("pool {}: no interface uses it", pool.name));
        }
        warnings
    }
}

fn assemble(document: &Document<'_>, files: &Files<'_>) -> Config {
    let root = document.root();
    let system = read::system(document.system(&root), files);
    let profiles = root.sections("tls-profile", MAX_TABLES);
    let pools = root.sections("tscf-address-pool", MAX_TABLES);
    let interfaces = root.sections("tscf-interface", MAX_TABLES);
    let policies = root.sections("tscf-protocol-policy", MAX_TABLES);
    let data_flows = root.sections("tscf-data-flow", MAX_TABLES);
    let user_space = root.sections("user-space-egress", 1).pop();
    let tun = root.sections("tun-egress", 1).pop();
    root.finish(&[]);
    let mut config = Config {
        tls_profiles: profiles
            .into_iter()
            .map(|section| read::tls_profile(section, files))
            .collect(),
        pools: pools
            .into_iter()
            .map(|section| read::pool(section, &system))
            .collect(),
        interfaces: Vec::new(),
        policies: policies.into_iter().map(read_egress::policy).collect(),
        data_flows: data_flows.into_iter().map(read_egress::data_flow).collect(),
        user_space: user_space.map(read_egress::user_space).unwrap_or_default(),
        tun: tun.map(read_egress::tun).unwrap_or_default(),
        system,
    };
    let mut positions = Vec::new();
    for (position, section) in interfaces.into_iter().enumerate() {
        let (interface, enabled) = read_interface::interface(section, &config.system, files);
        if enabled {
            config.interfaces.push(interface);
            positions.push(position);
        }
    }
    Checker {
        config: &config,
        positions: &positions,
        document,
    }
    .run();
    for (position, profile) in config.tls_profiles.iter().enumerate() {
        let path = KeyPath::of("tls-profile").index(position);
        credentials(profile, &path, document);
    }
    config
}

/// The keys that the environment sets, and the variables that look like misspelt ones. Others that begin
/// with `TSC_` may belong to other programs.
fn variables(environment: &Environment) -> (Vec<KeyOverride>, Vec<ConfigError>) {
    /// Likeness from which a variable is taken for a misspelt one.
    const LIKENESS: f64 = 0.93;
    let (mut set, mut errors) = (Vec::new(), Vec::new());
    for (name, value) in environment.with_prefix(ENVIRONMENT_PREFIX) {
        if OTHER_VARIABLES.contains(&name) {
            continue;
        }
        if let Some(key) = SYSTEM_KEYS.iter().find(|key| variable(key) == name) {
            set.push(KeyOverride {
                key: (*key).to_owned(),
                value: value.to_owned(),
                origin: format!("environment variable {name}"),
            });
            continue;
        }
        let known = SYSTEM_KEYS.iter().map(|key| variable(key));
        let alike = known
            .map(|known| (strsim::jaro_winkler(&known, name), known))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(likeness, _)| *likeness >= LIKENESS);
        if let Some((_, known)) = alike {
            errors.push(ConfigError {
                place: Place::Override(format!("environment variable {name}")),
                key: String::new(),
                kind: ConfigErrorKind::UnknownKey,
                help: format!("did you mean \"{known}\"?"),
            });
        }
    }
    (set, errors)
}
