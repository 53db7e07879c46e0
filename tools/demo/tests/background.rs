//! An application in the background: the real server asks whether the real client is there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{Activity, DtlsBackendKind, Transport};

/// Longer than half of the shortest interval.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_keeps_tunnels_in_the_background_alive() {
    let mut options = LabOptions::default();
    options.interface += "\nkeepalive-timer = 30\n\
                          keepalive-timer-datagram = 30";
    let lab = Lab::start(&options).unwrap();
    let mut tunnels = Vec::new();
    for transport in Transport::ALL {
        let builder = lab.tunnel(transport, DtlsBackendKind::OpenSsl).unwrap();
        let tunnel = builder.connect().await.unwrap();
        tunnel.set_activity(Activity::Background);
        tunnels.push(tunnel);
    }
    let end = Instant::now() + LIMIT;
    let sessions = loop {
        let sessions = lab.server.report().await.unwrap().sessions;
        if sessions.keepalives >= 4 || Instant::now() > end {
            break sessions;
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(sessions.keepalives, 4, "{sessions:?}");
    sleep(Duration::from_secs(2)).await;
    let sessions = lab.server.report().await.unwrap().sessions;
    assert_eq!(
        (sessions.sessions, sessions.persistent, sessions.resumed),
        (4, 0, 0)
    );
    assert_eq!(sessions.retransmissions, 0, "all were answered");
    for tunnel in tunnels {
        tunnel.close(LIMIT).await.unwrap();
    }
}
