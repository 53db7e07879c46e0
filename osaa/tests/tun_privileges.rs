//! Giving up capabilities once a device stands, in a process with one thread.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[cfg(target_os = "linux")]
mod tun_common;

#[cfg(target_os = "linux")]
fn main() {
    use std::{process::Command, thread};

    use tokio::net::UdpSocket;
    use tsc_osaa::tun::{DropError, TunConfig, TunDevice, TunError, drop_capabilities};
    use tun_common::{config, in_namespace, mirror, within};

    // libtest's own arguments, such as --list, are not for us.
    if !in_namespace(&[]) {
        return;
    }
    let mut config = config("tsctest");
    config.queues = 2;
    let device = TunDevice::create(&config).unwrap();

    // A thread gives up its own, finds that this one keeps them, and cannot make a device any more.
    thread::spawn(|| {
        let error = drop_capabilities().unwrap_err();
        assert!(
            matches!(error, DropError::OtherThreads { threads: 1 }),
            "{error}"
        );
        let error = TunDevice::create(&TunConfig::default()).unwrap_err();
        assert!(
            matches!(error, TunError::MissingCapability { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    })
    .join()
    .unwrap();
    drop(TunDevice::create(&TunConfig::default()).expect("this thread may still"));

    drop_capabilities().unwrap();
    let error = TunDevice::create(&TunConfig::default()).unwrap_err();
    assert!(
        matches!(error, TunError::MissingCapability { .. }),
        "{error}"
    );
    let status = Command::new("grep")
        .args(["CapPrm", "/proc/self/status"])
        .output()
        .unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert_eq!(
        status.trim(),
        "CapPrm:\t0000000000000000",
        "a program started by us"
    );

    // The device works on.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(within(async {
        let mirrors: Vec<_> = device.into_queues().into_iter().map(mirror).collect();
        for (host, behind) in [("10.9.0.1:0", "10.9.0.2"), ("[fd09::1]:0", "fd09::2")] {
            let server = UdpSocket::bind(host).await.unwrap();
            let client = UdpSocket::bind(host).await.unwrap();
            let port = server.local_addr().unwrap().port();
            client.send_to(b"hello", (behind, port)).await.unwrap();
            let mut bytes = [0; 16];
            let (length, _) = server.recv_from(&mut bytes).await.unwrap();
            assert_eq!(&bytes[..length], b"hello");
        }
        assert_eq!(mirrors.len(), 2);
    }));
}

#[cfg(not(target_os = "linux"))]
fn main() {}
