//! Any good policies, data flows and egress tables.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use tsc_server::config::{
    Config, DataFlowConfig, Egress, PolicyConfig, PolicyEgress, TransportType, TunEgressConfig,
    UdpFiltering, UserSpaceConfig,
};

/// A network of documentation addresses.
fn net(v6: bool) -> impl Strategy<Value = ipnet::IpNet> {
    any::<u16>().prop_map(move |bits| {
        let [high, low] = bits.to_be_bytes();
        let net = if v6 {
            format!("2001:db8:{bits:x}::/{}", 48 + low % 81)
        } else {
            format!("{}.{high}.{low}.0/{}", 192 + high % 8, 8 + low % 25)
        };
        net.parse::<ipnet::IpNet>().unwrap().trunc()
    })
}

fn nets() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    vec(any::<bool>().prop_flat_map(net), 0..4)
}

fn ports() -> impl Strategy<Value = RangeInclusive<u16>> {
    (1u16.., 1u16..).prop_map(|(a, b)| a.min(b)..=a.max(b))
}

fn policy(index: usize) -> impl Strategy<Value = PolicyConfig> {
    let remote = (any::<bool>(), any::<u8>()).prop_flat_map(|(v6, host)| {
        let address: IpAddr = if v6 {
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()].into()
        } else {
            [192, 0, 2, host].into()
        };
        (option::of(net(v6)), Just(address))
    });
    (
        remote,
        option::of(ports()),
        select(TransportType::ALL),
        option::of(select(PolicyEgress::ALL)),
        (any::<bool>(), option::of(1u16..)),
    )
        .prop_map(
            move |((destination, remote), ports, transport, egress, (rewrite, port))| {
                let drops = egress == Some(PolicyEgress::Drop);
                let remote_address = (rewrite && !drops && destination.is_some()).then_some(remote);
                let remote_port = port.filter(|_| !drops && ports.is_some());
                let idle = remote_address.is_none() && remote_port.is_none();
                PolicyConfig {
                    name: format!("policy-{index}"),
                    destination,
                    ports,
                    transport,
                    egress: egress.or_else(|| idle.then_some(PolicyEgress::Tun)),
                    remote_address,
                    remote_port,
                }
            },
        )
}

prop_compose! {
    fn data_flow(index: usize)(
        size in 0u32..=8,
        upstream_rate in 0u32..=122_070,
        downstream_rate in 0u32..=122_070,
    ) -> DataFlowConfig {
        DataFlowConfig {
            name: format!("flow-{index}"),
            group_size: 1 << size,
            upstream_rate,
            downstream_rate,
        }
    }
}

prop_compose! {
    fn user_space()(
        udp in (1u32..=1 << 20, 1u32..=65_536, 120u64..=86_400, option::of(ports())),
        udp_filtering in select(UdpFiltering::ALL),
        tcp in (1u32..=1 << 20, 1u32..=65_536, 60u64..=86_400, 1u64..=120),
        allow in nets(),
        deny in nets(),
    ) -> UserSpaceConfig {
        UserSpaceConfig {
            udp_mappings: udp.0,
            udp_mappings_per_tunnel: udp.1,
            udp_timeout: Duration::from_secs(udp.2),
            udp_ports: udp.3,
            udp_filtering,
            tcp_connections: tcp.0,
            tcp_connections_per_tunnel: tcp.1,
            tcp_timeout: Duration::from_secs(tcp.2),
            tcp_connect_timeout: Duration::from_secs(tcp.3),
            allow,
            deny,
        }
    }
}

prop_compose! {
    fn tun()(
        descriptor in option::weighted(0.3, Just("tun".to_owned())),
        name in option::of("[a-z][a-z0-9_.-]{0,14}"),
        addresses in vec(select(vec!["192.0.2.1/24", "2001:db8::1/64"]), 0..3),
        routes in option::of(nets()),
        mtu in option::of(1280u16..=9000),
        queues in 1u8..=16,
        offload in any::<bool>(),
    ) -> TunEgressConfig {
        if descriptor.is_some() {
            return TunEgressConfig { descriptor, mtu, ..TunEgressConfig::default() };
        }
        TunEgressConfig {
            descriptor,
            name,
            addresses: addresses.into_iter().map(|text| text.parse().unwrap()).collect(),
            routes,
            mtu,
            queues,
            offload,
        }
    }
}

/// The same configuration with all of it added.
pub fn with_egress(config: Config) -> impl Strategy<Value = Config> {
    let pools = config.pools.len();
    let policies: Vec<_> = (0..3).map(policy).collect();
    let flows: Vec<_> = (0..2).map(data_flow).collect();
    let names: Vec<String> = (0..3).map(|index| format!("policy-{index}")).collect();
    let chosen = vec(
        (
            select(Egress::ALL),
            subsequence(names, 0..=3),
            option::of(0..2_usize),
        ),
        pools,
    );
    (policies, flows, user_space(), tun(), chosen).prop_map(
        move |(policies, data_flows, user_space, tun, chosen)| {
            let mut config = Config {
                policies,
                data_flows,
                user_space,
                tun,
                ..config.clone()
            };
            for (pool, (egress, policies, flow)) in config.pools.iter_mut().zip(chosen) {
                pool.egress = egress;
                pool.policies = policies;
                pool.data_flow = flow.map(|index| format!("flow-{index}"));
            }
            config
        },
    )
}
