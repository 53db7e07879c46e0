//! Squid, and those who know its users: files of passwords, Samba's winbindd, MIT's Kerberos.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tsc_demo::pki::Authority;

use crate::{foreign::wait_for_port, network::Namespace, process::Process};

/// Where [`Squid`] listens in clear.
pub const PROXY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3128);

/// Where it listens under TLS, with a certificate for `localhost`.
pub const PROXY_TLS: SocketAddr = SocketAddr::new(PROXY.ip(), 3129);

/// The user of all tests. Samba wants one that the system has, too.
pub const USER: &str = "games";

/// That user's password.
pub const PASSWORD: &str = "Circle of Life: 1994";

/// The Kerberos realm.
pub const REALM: &str = "TSC.TEST";

/// Where [`Authentication::Ntlm`]'s users are.
pub const DOMAIN: &str = "SAMHOST";

/// Whom Squid lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Authentication {
    None,
    Basic,
    Digest,
    /// By winbindd, which takes NTLMv2 only.
    Ntlm,
    /// Negotiate by winbindd: NTLM within SPNEGO.
    Spnego,
    /// Negotiate by a ticket for `HTTP/localhost`.
    Kerberos,
}

/// A proxy with all that it needs. Ends with its owner.
#[derive(Debug)]
pub struct Squid {
    _squid: Process,
    _samba: Option<Process>,
    _kdc: Option<Process>,
    directory: PathBuf,
}

impl Squid {
    /// Starts Squid in the access network, in a test that is [`isolated`](crate::isolated) and whose root is the system's: Squid
    /// becomes another user. It offers these schemes.
    ///
    /// # Panics
    ///
    /// When something does not start.
    #[must_use]
    pub fn new(offered: &[Authentication]) -> Self {
        Namespace::Access.run("ip link set lo up");
        Namespace::Access.run("mount -t tmpfs tmpfs /dev/shm");
        let directory = PathBuf::from("/run/squid");
        made(fs::create_dir_all(&directory), &directory);
        let has = |kind| offered.contains(&kind);
        let samba =
            (has(Authentication::Ntlm) || has(Authentication::Spnego)).then(|| samba(&directory));
        let kdc = has(Authentication::Kerberos).then(|| kdc(&directory));
        let authority =
            Authority::new("Proxy").and_then(|authority| Ok((authority.server()?, authority)));
        #[allow(clippy::panic, reason = "a test has no better way to fail")]
        let (identity, authority) =
            authority.unwrap_or_else(|error| panic!("no certificate: {error}"));
        made(identity.write(&directory, "proxy"), &directory);
        write(&directory.join("ca.pem"), authority.certificate());
        let mut lines: Vec<String> = offered
            .iter()
            .map(|authentication| authentication.lines(&directory))
            .collect();
        let needs_user = lines.iter().any(|lines| !lines.is_empty());
        if needs_user {
            lines.push("acl known proxy_auth REQUIRED".to_owned());
        }
        let https = format!(
            "https_port {PROXY_TLS} tls-cert={0}/proxy.pem tls-key={0}/proxy.key",
            directory.display()
        );
        let text = include_str!("squid.conf")
            .replace("@HTTPS@", &https)
            .replace("@LOG@", &directory.join("cache.log").display().to_string())
            .replace("@AUTHENTICATION@", &lines.join("\n"))
            .replace("@WHO@", if needs_user { "known" } else { "all" });
        let path = directory.join("squid.conf");
        write(&path, &text);
        // Its own user reads the passwords and writes the log.
        Namespace::Access.run(&format!("chown -R proxy:proxy {}", directory.display()));
        let mut command = Namespace::Access.command("squid");
        command.args(["-N", "-d", "1", "-f"]).arg(&path);
        let mut squid = Process::start("squid", command);
        wait_for_port(&mut squid, "tcp", PROXY.port());
        wait_for_port(&mut squid, "tcp", PROXY_TLS.port());
        Self {
            _squid: squid,
            _samba: samba,
            _kdc: kdc,
            directory,
        }
    }

    /// The file with the authority that signed the proxy's certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }
}

impl Authentication {
    fn lines(self, directory: &Path) -> String {
        let path = directory.display();
        let (scheme, program) = match self {
            Self::None => return String::new(),
            Self::Basic => {
                let hash = output(Command::new("openssl").args(["passwd", "-apr1", PASSWORD]));
                write(&directory.join("basic"), &format!("{USER}:{hash}"));
                (
                    "basic",
                    format!("/usr/lib/squid/basic_ncsa_auth {path}/basic"),
                )
            }
            Self::Digest => {
                let script = format!("printf '%s' '{USER}:squid:{PASSWORD}' | md5sum");
                let hash = output(Command::new("sh").args(["-c", &script]));
                let hash = hash.split_whitespace().next().unwrap_or_default();
                write(&directory.join("digest"), &format!("{USER}:squid:{hash}\n"));
                (
                    "digest",
                    format!("/usr/lib/squid/digest_file_auth -c {path}/digest"),
                )
            }
            Self::Ntlm => ("ntlm", helper(directory, "squid-2.5-ntlmssp")),
            Self::Spnego => ("negotiate", helper(directory, "gss-spnego")),
            Self::Kerberos => (
                "negotiate",
                format!(
                    "/usr/lib/squid/negotiate_kerberos_auth -k {path}/keytab -s HTTP/localhost@{REALM}"
                ),
            ),
        };
        let realm = match self {
            Self::Basic | Self::Digest => format!("auth_param {scheme} realm squid\n"),
            Self::None | Self::Ntlm | Self::Spnego | Self::Kerberos => String::new(),
        };
        format!(
            "auth_param {scheme} program {program}\nauth_param {scheme} children 2 startup=1\n{realm}"
        )
    }
}

fn helper(directory: &Path, protocol: &str) -> String {
    format!(
        "/usr/bin/ntlm_auth --configfile={}/smb.conf --helper-protocol={protocol}",
        directory.display()
    )
}

/// Winbindd with one user of its own, and no domain.
fn samba(directory: &Path) -> Process {
    let root = "/run/samba";
    for name in ["private", "lock", "state", "cache", "ncalrpc"] {
        let path = PathBuf::from(root).join(name);
        made(fs::create_dir_all(&path), &path);
    }
    let logs = PathBuf::from("/var/log/samba");
    made(fs::create_dir_all(&logs), &logs);
    let path = directory.join("smb.conf");
    write(
        &path,
        &format!(
            "[global]\nworkgroup = TSCTEST\nnetbios name = {DOMAIN}\nserver role = standalone server\n\
             passdb backend = tdbsam\nprivate dir = {root}/private\nlock directory = {root}/lock\n\
             state directory = {root}/state\ncache directory = {root}/cache\npid directory = {root}\n\
             ncalrpc dir = {root}/ncalrpc\nwinbindd socket directory = {root}/winbindd\n\
             ntlm auth = ntlmv2-only\ninterfaces = lo\nbind interfaces only = yes\nlog file = {root}/log.%m\n"
        ),
    );
    let mut command = Command::new("smbpasswd");
    command.arg("-c").arg(&path).args(["-s", "-a", USER]);
    fed(command, &format!("{PASSWORD}\n{PASSWORD}\n"));
    let mut command = Namespace::Access.command("winbindd");
    command
        .args(["-F", "--no-process-group", "--debug-stdout", "-s"])
        .arg(&path);
    let mut process = Process::start("winbindd", command);
    let pipe = PathBuf::from(root).join("state/winbindd_privileged");
    let end = Instant::now() + Duration::from_secs(30);
    while !pipe.join("pipe").exists() {
        assert!(
            process.is_running() && Instant::now() < end,
            "winbindd does not listen"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    // Squid's helper may ask who has which password.
    Namespace::Access.run(&format!("chgrp proxy {}", pipe.display()));
    process
}

/// A key server for [`REALM`], port 88, with [`USER`] and the proxy.
fn kdc(directory: &Path) -> Process {
    let root = directory.join("kdc");
    made(fs::create_dir_all(&root), &root);
    let path = root.display();
    let kerberos = root.join("krb5.conf");
    write(
        &kerberos,
        &format!(
            "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\nrdns = false\n\
             [realms]\n{REALM} = {{\n  kdc = 127.0.0.1:88\n}}\n"
        ),
    );
    let server = root.join("kdc.conf");
    write(
        &server,
        &format!(
            "[kdcdefaults]\nkdc_listen = 127.0.0.1:88\nkdc_tcp_listen = 127.0.0.1:88\n[realms]\n{REALM} = {{\n\
             database_name = {path}/principal\nkey_stash_file = {path}/stash\n\
             acl_file = {path}/acl\nmax_life = 1h\n}}\n[logging]\nkdc = FILE:{path}/log\n"
        ),
    );
    let command = |program: &str| {
        let mut command = Namespace::Access.command(program);
        command
            .env("KRB5_CONFIG", &kerberos)
            .env("KRB5_KDC_PROFILE", &server);
        command
    };
    let _ = output(command("kdb5_util").args(["create", "-s", "-P", "master", "-r", REALM]));
    let keytab = directory.join("keytab");
    for query in [
        format!("addprinc +requires_preauth -pw \"{PASSWORD}\" {USER}"),
        "addprinc -randkey HTTP/localhost".to_owned(),
        format!("ktadd -k {} HTTP/localhost", keytab.display()),
    ] {
        let _ = output(command("kadmin.local").args(["-r", REALM, "-q", &query]));
    }
    let mut start = command("krb5kdc");
    start.args(["-n", "-r", REALM]);
    let mut process = Process::start("krb5kdc", start);
    wait_for_port(&mut process, "tcp", 88);
    process
}

/// Runs a command to its end and gives what it wrote.
#[allow(clippy::panic, reason = "a test has no better way to fail")]
fn output(command: &mut Command) -> String {
    match command.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => panic!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// Runs a command that reads `input`.
#[allow(clippy::panic, reason = "a test has no better way to fail")]
fn fed(mut command: Command, input: &str) {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let fed = command.spawn().and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait()
    });
    match fed {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?}: {status}"),
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn write(path: &Path, text: &str) {
    made(fs::write(path, text), path);
}

#[allow(clippy::panic, reason = "a test has no better way to fail")]
fn made(result: std::io::Result<()>, path: &Path) {
    if let Err(error) = result {
        panic!("{}: {error}", path.display());
    }
}
