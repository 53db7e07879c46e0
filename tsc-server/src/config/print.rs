//! Writes a configuration as TOML that reads back as the same configuration.
//!
//! Secrets need no mask: a [`Config`] holds the paths of keys and token files, and their contents are
//! never printed.

use std::fmt::{self, Display, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use tsc_osaa::socket::OuterDscp;

use super::egress::{Egress, TunEgressConfig, UserSpaceConfig};
use super::model::{
    AssignedServices, Authentication, Config, InterfaceConfig, PoolConfig, PortConfig, Service,
    SystemConfig, Timers, TlsProfile,
};

/// The effective configuration: every key with its value.
impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Printer(f);
        out.system(&self.system)?;
        for profile in &self.tls_profiles {
            out.profile(profile)?;
        }
        for pool in &self.pools {
            out.pool(pool)?;
        }
        for policy in &self.policies {
            out.policy(policy)?;
        }
        for flow in &self.data_flows {
            out.data_flow(flow)?;
        }
        if self.user_space != UserSpaceConfig::default() || self.uses(Egress::UserSpace) {
            out.user_space(&self.user_space)?;
        }
        if self.tun != TunEgressConfig::default() || self.uses(Egress::Tun) {
            out.tun(&self.tun)?;
        }
        for interface in &self.interfaces {
            out.interface(interface)?;
        }
        Ok(())
    }
}

pub(super) struct Printer<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Printer<'_, '_> {
    pub(super) fn header(&mut self, header: &str) -> fmt::Result {
        writeln!(self.0, "\n{header}")
    }

    pub(super) fn bare(&mut self, key: &str, value: impl Display) -> fmt::Result {
        writeln!(self.0, "{key} = {value}")
    }

    pub(super) fn seconds(&mut self, key: &str, value: Duration) -> fmt::Result {
        self.bare(key, value.as_secs())
    }

    pub(super) fn text(&mut self, key: &str, value: impl Display) -> fmt::Result {
        self.bare(key, quoted(value))
    }

    fn path(&mut self, key: &str, path: &Path) -> fmt::Result {
        self.text(key, path.display())
    }

    pub(super) fn list<T: Display>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
    ) -> fmt::Result {
        let items: Vec<String> = items.into_iter().map(quoted).collect();
        self.bare(key, format_args!("[{}]", items.join(", ")))
    }

    fn timers(&mut self, timers: &Timers) -> fmt::Result {
        self.seconds("keepalive-timer", timers.keepalive_stream)?;
        self.seconds("keepalive-timer-datagram", timers.keepalive_datagram)?;
        self.seconds("tunnel-persistence-time", timers.persistence)
    }

    fn system(&mut self, system: &SystemConfig) -> fmt::Result {
        writeln!(self.0, "[tscf-config]")?;
        self.bare("element-id", system.element_id)?;
        self.timers(&system.timers)?;
        self.bare("workers", system.workers.unwrap_or_default())?;
        self.bare("gather-time", system.gather_time.as_micros())?;
        self.bare("busy-poll", system.busy_poll.as_micros())?;
        self.bare("max-tunnels", system.max_tunnels)?;
        self.bare("max-half-open", system.max_half_open)?;
        self.bare("busy-when-overloaded", system.busy_when_overloaded)?;
        self.seconds("address-quarantine", system.quarantine)?;
        self.seconds("graceful-stop-deadline", system.stop_deadline)?;
        self.text("log-level", system.log_level)?;
        self.text("log-format", system.log_format)?;
        if let Some(path) = &system.trace_file {
            self.path("trace-file", path)?;
        }
        self.text("trace-redaction", system.trace_redaction)?;
        self.bare("trace-file-size", system.trace_file_size)?;
        self.bare("trace-files", system.trace_files)?;
        self.seconds("trace-file-time", system.trace_file_time)?;
        self.bare("trace-outer", system.trace_outer)?;
        let secrets = system.trace_insecure_decryption_secrets;
        self.bare("trace-insecure-decryption-secrets", secrets)?;
        if let Some(path) = &system.trace_directory {
            self.path("trace-directory", path)?;
        }
        match &system.control_socket {
            Some(path) => self.path("control-socket", path),
            None => Ok(()),
        }
    }

    fn profile(&mut self, profile: &TlsProfile) -> fmt::Result {
        self.header("[[tls-profile]]")?;
        self.text("name", &profile.name)?;
        self.path("certificate", &profile.certificate.path)?;
        self.path("private-key", &profile.private_key.path)?;
        let authorities = profile.client_ca.iter().map(|pem| pem.path.display());
        self.list("client-ca", authorities)
    }

    fn pool(&mut self, pool: &PoolConfig) -> fmt::Result {
        self.header("[[tscf-address-pool]]")?;
        self.text("name", &pool.name)?;
        self.list("address-range", &pool.ranges)?;
        self.list("exclude", &pool.exclude)?;
        let host_bits = 32_u32.saturating_sub(u32::from(pool.prefix_len_v4));
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        self.text("netmask", Ipv4Addr::from_bits(mask))?;
        self.bare("prefix-length", pool.prefix_len_v6)?;
        self.seconds("address-quarantine", pool.quarantine)?;
        self.text("egress", pool.egress)?;
        self.list("protocol-policy", &pool.policies)?;
        match &pool.data_flow {
            Some(name) => self.text("data-flow", name),
            None => Ok(()),
        }
    }

    fn interface(&mut self, interface: &InterfaceConfig) -> fmt::Result {
        self.header("[[tscf-interface]]")?;
        self.text("realm-id", &interface.name)?;
        self.bare("max-tunnels", interface.limits.max_tunnels)?;
        self.list("local-address-pools", &interface.pools)?;
        self.list("assigned-services", words(interface.services))?;
        self.timers(&interface.timers)?;
        self.bare("inner-mtu", interface.inner_mtu)?;
        if let Some(dscp) = interface.dscp {
            self.bare("dscp", dscp)?;
        }
        match interface.outer_dscp {
            OuterDscp::Off => self.text("outer-dscp", "off")?,
            OuterDscp::Copy => self.text("outer-dscp", "copy")?,
            OuterDscp::Set(dscp) => self.bare("outer-dscp", dscp.get())?,
        }
        self.list("sip-servers", &interface.sip_servers)?;
        self.list("dns-servers", &interface.dns_servers)?;
        let alternate = |alternate: &super::Alternate| {
            format!("{}://{}", alternate.transport, alternate.address)
        };
        self.list(
            "alternate-servers",
            interface.alternates.iter().map(alternate),
        )?;
        self.bare("redirect", interface.redirect)?;
        match &interface.authentication {
            Authentication::None => self.text("authentication", "none")?,
            Authentication::Mtls => self.text("authentication", "mtls")?,
            Authentication::Token(token) => {
                self.text("authentication", "token")?;
                self.path("token-file", &token.file)?;
                self.bare("allow-token-on-clear", token.allow_on_clear)?;
            }
        }
        self.header("[tscf-interface.limits]")?;
        let limits = &interface.limits;
        self.bare("tunnels-per-prefix", limits.tunnels_per_prefix)?;
        self.bare("tunnels-per-identity", limits.tunnels_per_identity)?;
        self.bare("requests-per-prefix", limits.requests_per_prefix)?;
        self.bare("half-open", limits.half_open)?;
        self.seconds("configuration-time", limits.configuration_time)?;
        self.bare("media-queue-time", limits.media_queue_time.as_millis())?;
        self.bare("stream-queue", limits.stream_queue)?;
        self.seconds("stream-timeout", limits.stream_timeout)?;
        for routed in &interface.routed {
            self.header("[[tscf-interface.routed-prefix]]")?;
            self.text("identity", &routed.identity)?;
            self.list("prefixes", &routed.prefixes)?;
        }
        interface.ports.iter().try_for_each(|port| self.port(port))
    }

    fn port(&mut self, port: &PortConfig) -> fmt::Result {
        self.header("[[tscf-interface.tscf-port]]")?;
        self.text("address", port.listen.ip())?;
        self.bare("port", port.listen.port())?;
        self.list("transport-protocol", port.transports.iter())?;
        if let Some(profile) = &port.tls_profile {
            self.text("tls-profile", profile)?;
        }
        if let Some(backend) = port.dtls_backend {
            self.text("dtls-backend", backend)?;
        }
        Ok(())
    }
}

fn words(services: AssignedServices) -> impl Iterator<Item = Service> {
    let all = [
        (services.sip, Service::Sip),
        (services.nagle, Service::Nagle),
        (services.stg, Service::Stg),
        (services.redundancy, Service::Redundancy),
        (services.ddt, Service::Ddt),
        (services.dtte, Service::Dtte),
        (services.server_keepalive, Service::ServerKeepalive),
        (services.peer, Service::Peer),
        (services.inter_client_block, Service::InterClientBlock),
    ];
    all.into_iter()
        .filter_map(|(assigned, service)| assigned.then_some(service))
}

/// A TOML basic string.
fn quoted(value: impl Display) -> String {
    let mut out = String::from("\"");
    for c in value.to_string().chars() {
        let written = match c {
            '"' => write!(out, "\\\""),
            '\\' => write!(out, "\\\\"),
            c if c.is_control() => write!(out, "\\u{:04X}", u32::from(c)),
            c => write!(out, "{c}"),
        };
        debug_assert!(written.is_ok(), "a String takes everything");
    }
    out.push('"');
    out
}
