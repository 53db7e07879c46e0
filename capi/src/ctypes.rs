//! The structures of `tsc_control_api.h` and `tsc_socket_api.h`, as C lays them out. Enumerations are integers here: the caller may
//! write any number.

use std::ffi::{c_char, c_int, c_long, c_short, c_uint, c_void};

use libc::sockaddr_storage;

pub(crate) const MAX_TUNNELS: usize = 64;
pub(crate) const MAX_CONNECTIONS: usize = 8;
pub(crate) const PEM_LEN: usize = 16384;
pub(crate) const NAME_LEN: usize = 256;
pub(crate) const MAX_SERVERS: usize = 8;
pub(crate) const MAX_NOTIFICATIONS: usize = 32;
pub(crate) const FD_SETSIZE: usize = 1024;

pub(crate) type Name = [c_char; NAME_LEN];

/// `tsc_handle` and `tsc_notification_handle`: numbers that look like pointers, so that C tells them apart.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Opaque {
    _private: [u8; 0],
}

/// `tsc_handle`, `tsc_notification_handle`.
pub(crate) type Handle = *mut Opaque;

/// `tsc_ip_address`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IpAddress {
    pub(crate) address: u32,
}

/// `tsc_ip_port_address`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IpPortAddress {
    pub(crate) address: u32,
    pub(crate) port: u16,
}

/// `tsc_ipv6_address`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ipv6Address {
    pub(crate) address: [u8; 16],
}

/// `tsc_connection_params`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct ConnectionParams {
    pub(crate) server_address: IpPortAddress,
    pub(crate) transport: c_int,
    pub(crate) server_name: Name,
}

/// `tsc_config_ca`, `tsc_config_cert`, `tsc_config_key`.
#[repr(C)]
pub(crate) struct Pem {
    pub(crate) len: u32,
    pub(crate) text: [u8; PEM_LEN],
}

// The text may be a key.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// `tsc_security_config`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct SecurityConfig {
    pub(crate) read_from_file: c_int,
    pub(crate) ca_count: u32,
    pub(crate) config_ca: Pem,
    pub(crate) auth_disable: c_int,
    pub(crate) cert_count: u32,
    pub(crate) config_cert: Pem,
    pub(crate) config_key: Pem,
    pub(crate) server_name: Name,
}

/// `tsc_pcap_capture`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct PcapCapture {
    pub(crate) enabled: c_int,
    pub(crate) filename: Name,
}

/// `tsc_tunnel_params`.
#[repr(C)]
pub(crate) struct TunnelParams {
    pub(crate) max_connections: u32,
    pub(crate) connection_timeout_max: u32,
    pub(crate) connection_params: [ConnectionParams; MAX_CONNECTIONS],
    pub(crate) sec_config: [SecurityConfig; 1],
    pub(crate) pcap_capture: PcapCapture,
    pub(crate) nonblocking: c_int,
    pub(crate) accept_peer_tunnels: c_int,
    pub(crate) auth_token: Name,
    pub(crate) proxy: Name,
    pub(crate) proxy_user: Name,
    pub(crate) proxy_password: Name,
}

// With what is secret left out.
impl std::fmt::Debug for TunnelParams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelParams").finish_non_exhaustive()
    }
}

/// `tsc_requested_config`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestedConfig {
    pub(crate) ipv4: c_int,
    pub(crate) ipv6: c_int,
    pub(crate) mtu: u32,
}

/// `tsc_tunnel_id`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelId {
    pub(crate) hi: u32,
    pub(crate) lo: u32,
}

/// `tsc_config`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Config {
    pub(crate) tunnel_id: TunnelId,
    pub(crate) internal_address: IpAddress,
    pub(crate) sip_server: IpPortAddress,
    pub(crate) has_internal_ipv6_address: c_int,
    pub(crate) internal_ipv6_address: Ipv6Address,
    pub(crate) sip_servers: [sockaddr_storage; MAX_SERVERS],
    pub(crate) sip_server_count: u32,
    pub(crate) dns_servers: [sockaddr_storage; MAX_SERVERS],
    pub(crate) dns_server_count: u32,
    pub(crate) mtu: u32,
    pub(crate) keepalive_interval: u32,
    pub(crate) persistence_time: u32,
}

/// `tsc_tunnel_socket_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SocketInfo {
    pub(crate) transport: c_int,
    pub(crate) local_address: IpPortAddress,
    pub(crate) remote_address: IpPortAddress,
    pub(crate) nat_ipport: IpPortAddress,
    pub(crate) local_sockaddr: sockaddr_storage,
    pub(crate) remote_sockaddr: sockaddr_storage,
    pub(crate) nat_sockaddr: sockaddr_storage,
}

/// `tsc_notification_data`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct NotificationData {
    pub(crate) handle: Handle,
    pub(crate) kind: c_int,
    pub(crate) data: *mut c_void,
    pub(crate) opaque: *mut c_void,
}

/// `tsc_notification_service_info_data`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceInfo {
    pub(crate) available: c_int,
    pub(crate) enabled: c_int,
    pub(crate) socket: c_int,
}

/// `tsc_notification_termination_info_data`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TerminationInfo {
    pub(crate) config: Config,
    pub(crate) reason: c_int,
    pub(crate) text: *const c_char,
}

/// `tsc_so_redundancy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SoRedundancy {
    pub(crate) redundancy_factor: u32,
    pub(crate) redundancy_method: c_int,
}

/// `tsc_fd_set`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct FdSet {
    pub(crate) bits: [u64; FD_SETSIZE / 64],
}

impl FdSet {
    pub(crate) const EMPTY: Self = Self {
        bits: [0; FD_SETSIZE / 64],
    };
}

/// `struct tsc_timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeval {
    pub(crate) tv_sec: c_long,
    pub(crate) tv_usec: c_long,
}

/// `struct tsc_pollfd`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PollFd {
    pub(crate) fd: c_int,
    pub(crate) events: c_short,
    pub(crate) revents: c_short,
}

/// `tsc_notification_callback`, if it is not NULL.
pub(crate) type Callback = Option<unsafe extern "C" fn(*mut NotificationData)>;

/// The count of `tsc_poll`.
pub(crate) type Count = c_uint;
