//! Writes policies, data flows and egress tables as TOML.

use std::fmt;
use std::ops::RangeInclusive;

use super::egress::{DataFlowConfig, PolicyConfig, TunEgressConfig, UserSpaceConfig};
use super::print::Printer;

impl Printer<'_, '_> {
    pub(super) fn policy(&mut self, policy: &PolicyConfig) -> fmt::Result {
        self.header("[[tscf-protocol-policy]]")?;
        self.text("name", &policy.name)?;
        if let Some(network) = &policy.destination {
            self.text("ip-address", network)?;
        }
        if let Some(ports) = &policy.ports {
            self.ports("port", ports)?;
        }
        self.text("transport-type", policy.transport)?;
        if let Some(egress) = policy.egress {
            self.text("egress", egress)?;
        }
        if let Some(address) = policy.remote_address {
            self.text("remote-ip-address", address)?;
        }
        match policy.remote_port {
            Some(port) => self.bare("remote-port", port),
            None => Ok(()),
        }
    }

    pub(super) fn data_flow(&mut self, flow: &DataFlowConfig) -> fmt::Result {
        self.header("[[tscf-data-flow]]")?;
        self.text("name", &flow.name)?;
        self.bare("group-size", flow.group_size)?;
        self.bare("upstream-rate", flow.upstream_rate)?;
        self.bare("downstream-rate", flow.downstream_rate)
    }

    pub(super) fn user_space(&mut self, config: &UserSpaceConfig) -> fmt::Result {
        self.header("[user-space-egress]")?;
        self.bare("udp-mappings", config.udp_mappings)?;
        self.bare("udp-mappings-per-tunnel", config.udp_mappings_per_tunnel)?;
        self.seconds("udp-timeout", config.udp_timeout)?;
        if let Some(ports) = &config.udp_ports {
            self.ports("udp-port-range", ports)?;
        }
        self.text("udp-filtering", config.udp_filtering)?;
        self.bare("tcp-connections", config.tcp_connections)?;
        self.bare(
            "tcp-connections-per-tunnel",
            config.tcp_connections_per_tunnel,
        )?;
        self.seconds("tcp-timeout", config.tcp_timeout)?;
        self.seconds("tcp-connect-timeout", config.tcp_connect_timeout)?;
        self.list("allow-destinations", &config.allow)?;
        self.list("deny-destinations", &config.deny)
    }

    pub(super) fn tun(&mut self, config: &TunEgressConfig) -> fmt::Result {
        self.header("[tun-egress]")?;
        if let Some(name) = &config.descriptor {
            self.text("descriptor", name)?;
        } else {
            if let Some(name) = &config.name {
                self.text("name", name)?;
            }
            self.list("addresses", &config.addresses)?;
            if let Some(routes) = &config.routes {
                self.list("routes", routes)?;
            }
            self.bare("queues", config.queues)?;
            self.bare("offload", config.offload)?;
        }
        match config.mtu {
            Some(mtu) => self.bare("mtu", mtu),
            None => Ok(()),
        }
    }

    fn ports(&mut self, key: &str, ports: &RangeInclusive<u16>) -> fmt::Result {
        if ports.start() == ports.end() {
            self.bare(key, ports.start())
        } else {
            self.text(key, format_args!("{}-{}", ports.start(), ports.end()))
        }
    }
}
