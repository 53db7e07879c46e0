//! A tunnel server with a certificate authority of its own, on this machine: where the demo and the tests happen.

use anyhow::Context as _;
use tsc_server::config::{Config, Overrides};
use tsc_tapi::{
    DtlsBackendKind, Identity, PemSource, Roots, Server, Transport, Trust, Tunnel, TunnelBuilder,
};

use crate::pki::{Authority, PemIdentity};

/// The address of this machine that everything uses.
const LOOPBACK: &str = "127.0.0.1";

/// How the server of a [`Lab`] is set up.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Lines for `[tscf-config]`.
    pub system: String,
    /// Lines for the one `[[tscf-interface]]`, besides its name, pools and ports.
    pub interface: String,
    /// `address-range` of the one pool.
    pub address_range: String,
    /// Lines for the pool, besides its name and range.
    pub pool: String,
    /// Further objects, such as interfaces of a test's own; the profile `demo` is there for them.
    pub more: String,
    /// Whether TCP and UDP are served too: `false` for mutual TLS, which does not go with them.
    pub clear: bool,
    /// Address to listen on.
    pub address: String,
    /// Files that exist in memory only, by the name that the configuration uses.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            system: String::new(),
            interface: "authentication = \"none\"".to_owned(),
            address_range: "10.64.0.0/24".to_owned(),
            pool: "address-quarantine = 0".to_owned(),
            more: String::new(),
            clear: true,
            address: LOOPBACK.to_owned(),
            files: Vec::new(),
        }
    }
}

/// See the module.
pub struct Lab {
    /// The running server.
    pub server: tsc_server::Server,
    /// Who signed its certificate, and signs those of clients.
    pub authority: Authority,
    roots: Roots,
}

/// Which side of the tunnel server a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `realm-id = "access"`: where callers come in. They are assigned [`SIP_SERVER`].
    Access,
    /// `realm-id = "core"`: where the SIP server comes in. Its pool has one address, so it always gets the same.
    Core,
}

impl Side {
    const fn realm(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Core => "core",
        }
    }
}

/// Inner address and port of the SIP server.
pub const SIP_SERVER: &str = "10.65.0.1:5060";

impl Lab {
    /// Starts a server on ports that the system chooses.
    ///
    /// # Errors
    ///
    /// When certificates cannot be made, or the server does not start.
    pub fn start(options: &LabOptions) -> anyhow::Result<Self> {
        let authority = Authority::new("OpenTSC demo authority")?;
        let config = Self::config(options, &authority, &authority.server()?)?;
        let server = tsc_server::Server::start(&config)?;
        let roots = Roots::from_pem(&PemSource::Memory(
            authority.certificate().as_bytes().to_vec(),
        ))?;
        Ok(Self {
            server,
            authority,
            roots,
        })
    }

    /// The configuration that [`Lab::start`] uses, with another identity if wanted.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn config(
        options: &LabOptions,
        authority: &Authority,
        identity: &PemIdentity,
    ) -> anyhow::Result<Config> {
        let text = Self::config_text(options);
        let mut overrides = Overrides::default()
            .with_file("server.pem", identity.certificate.as_bytes())
            .with_file("server.key", identity.key.as_bytes())
            .with_file("ca.pem", authority.certificate().as_bytes());
        for (name, contents) in &options.files {
            overrides = overrides.with_file(name, contents.clone());
        }
        Config::parse_with(&text, "lab.toml", &overrides)
            .map_err(|errors| anyhow::anyhow!("{errors}\nin the configuration:\n{text}"))
    }

    /// The same as TOML.
    #[must_use]
    pub fn config_text(options: &LabOptions) -> String {
        let LabOptions {
            system,
            interface,
            address_range,
            pool,
            more,
            clear,
            address,
            ..
        } = options;
        let transports = if *clear {
            r#""tcp", "tls", "udp", "dtls""#
        } else {
            r#""tls", "dtls""#
        };
        let mut text = format!(
            r#"[tscf-config]
{system}

[[tls-profile]]
name = "demo"
certificate = "server.pem"
private-key = "server.key"
client-ca = ["ca.pem"]

[[tscf-address-pool]]
name = "clients"
address-range = ["{address_range}"]
{pool}

[[tscf-address-pool]]
name = "sip-server"
address-range = ["10.65.0.1"]
address-quarantine = 0
"#
        );
        for (side, pool, lines) in [
            (
                Side::Access,
                "clients",
                format!(
                    "{interface}\nassigned-services = [\"SIP\", \"redundancy\", \"DDT\", \"DTTE\", \"server-keepalive\"]\nsip-servers = [\"{SIP_SERVER}\"]"
                ),
            ),
            (Side::Core, "sip-server", interface.clone()),
        ] {
            text.push_str(&format!(
                r#"
[[tscf-interface]]
realm-id = "{}"
local-address-pools = ["{pool}"]
{lines}

# Everybody comes from this machine.
[tscf-interface.limits]
requests-per-prefix = 10000
"#,
                side.realm()
            ));
            for (index, backend) in DtlsBackendKind::ALL
                .into_iter()
                .filter(|backend| backend.is_available())
                .enumerate()
            {
                // The first port serves all transports, a second one only the other back end.
                let transports = if index == 0 { transports } else { r#""dtls""# };
                text.push_str(&format!(
                    r#"
[[tscf-interface.tscf-port]]
address = "{address}"
port = 0
transport-protocol = [{transports}]
tls-profile = "demo"
dtls-backend = "{backend}"
"#
                ));
            }
        }
        text.push_str(more);
        text
    }

    /// Where the server speaks `transport`; with DTLS, by the given back end.
    #[must_use]
    pub fn server_for(
        &self,
        side: Side,
        transport: Transport,
        backend: DtlsBackendKind,
    ) -> Option<Server> {
        let mut ports = self
            .server
            .ports()
            .iter()
            .filter(|port| port.interface == side.realm() && port.transport == transport);
        // Each side lists the ports of its back ends in their order.
        let port = if transport == Transport::Dtls {
            let mut built = DtlsBackendKind::ALL
                .into_iter()
                .filter(|backend| backend.is_available());
            ports.nth(built.position(|built| built == backend)?)
        } else {
            ports.next()
        }?;
        Some(Server::new(
            transport,
            port.address.ip().to_string(),
            port.address.port(),
        ))
    }

    /// The authority's certificate, as clients trust it.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust::Roots(self.roots.clone())
    }

    /// A builder for a tunnel to this server's access side, by the same DTLS back end at both ends.
    ///
    /// # Errors
    ///
    /// The server does not serve that.
    pub fn tunnel(
        &self,
        transport: Transport,
        backend: DtlsBackendKind,
    ) -> anyhow::Result<TunnelBuilder> {
        self.tunnel_to(Side::Access, transport, backend)
    }

    /// The same for either side.
    ///
    /// # Errors
    ///
    /// The server does not serve that.
    pub fn tunnel_to(
        &self,
        side: Side,
        transport: Transport,
        backend: DtlsBackendKind,
    ) -> anyhow::Result<TunnelBuilder> {
        let server = self
            .server_for(side, transport, backend)
            .with_context(|| format!("{transport} is not served"))?;
        Ok(Tunnel::builder(server)
            .trust(self.trust())
            .dtls_backend(backend))
    }

    /// A client certificate of this lab's authority.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn client_identity(&self, name: &str) -> anyhow::Result<Identity> {
        let identity = self.authority.client(name)?;
        Ok(Identity::from_pem(
            &PemSource::Memory(identity.certificate.into_bytes()),
            &PemSource::Memory(identity.key.into_bytes()),
        )?)
    }
}
