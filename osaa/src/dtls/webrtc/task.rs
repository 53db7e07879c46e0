//! The task that owns the library's connection.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::trace;
use webrtc_dtls::Error;
use webrtc_dtls::config::Config;
use webrtc_dtls::conn::DTLSConn;

use crate::cert::CertificateError;
use crate::dtls::{DtlsError, DtlsInfo};

use super::Judge;
use super::conn::ChannelConn;
use super::shared::Shared;

/// The library reads datagrams into a buffer of this size.
const LONGEST_DATAGRAM: usize = 8_192;

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) conn: Arc<ChannelConn>,
    pub(super) config: Config,
    pub(super) is_client: bool,
    pub(super) judge: Judge,
    /// Plaintext to send.
    pub(super) outgoing: mpsc::Receiver<Vec<u8>>,
    /// Fires when the session is closed by its owner.
    pub(super) close: oneshot::Receiver<()>,
}

impl Task {
    /// Runs to the end of the association, which is reported.
    pub(super) async fn run(mut self) {
        self.install_verifier();
        let dtls = DTLSConn::new(
            Arc::<ChannelConn>::clone(&self.conn),
            self.config.clone(),
            self.is_client,
            None,
        )
        .await;
        let error = match dtls {
            Ok(dtls) => self.run_connected(&dtls).await,
            Err(error) => self.handshake_error(&error),
        };
        self.shared.closed(error);
    }

    /// Makes the library ask our verification, in time to send the alert.
    fn install_verifier(&mut self) {
        let shared = Arc::clone(&self.shared);
        let judge = Arc::clone(&self.judge);
        self.config.verify_peer_certificate = Some(Arc::new(move |presented, _| {
            let chain: Vec<_> = presented.iter().map(|der| der.as_slice().into()).collect();
            let verdict = judge(&chain);
            let refusal = verdict.as_ref().err().map(ToString::to_string);
            shared.lock().verdict = Some(verdict);
            refusal.map_or(Ok(()), |reason| Err(Error::Other(reason)))
        }));
    }

    async fn run_connected(&mut self, dtls: &DTLSConn) -> DtlsError {
        let presented = dtls.connection_state().await.peer_certificates;
        let verdict = self.shared.lock().verdict.take();
        let verdict = match verdict {
            Some(verdict) => verdict,
            // Nothing was presented, so the library did not ask. It must not have skipped asking either.
            None if presented.is_empty() => (self.judge)(&[]),
            None => Err(CertificateError::Other("not verified".to_owned())),
        };
        let peer = match verdict {
            Ok(peer) => peer,
            Err(error) => {
                self.close(dtls).await;
                return DtlsError::Certificate(error);
            }
        };
        self.shared.connected(
            self.is_client,
            DtlsInfo {
                peer,
                cipher: None,
                alpn: false,
                resumed: false,
            },
        );
        self.forward(dtls).await
    }

    /// Moves plaintext both ways until one end closes.
    async fn forward(&mut self, dtls: &DTLSConn) -> DtlsError {
        let mut buf = vec![0; LONGEST_DATAGRAM];
        loop {
            tokio::select! {
                received = dtls.read(&mut buf, None) => {
                    let Some(plaintext) = received.ok().and_then(|length| buf.get(..length)) else {
                        // The library has answered close_notify from another task. A second one is harmless and
                        // makes sure that the first is out.
                        self.close(dtls).await;
                        return DtlsError::PeerClosed;
                    };
                    if !plaintext.is_empty() {
                        self.shared.change(|state| {
                            state.last_flight = None;
                            let _ = state.plaintext.push(plaintext);
                        });
                    }
                }
                plaintext = self.outgoing.recv() => {
                    let Some(plaintext) = plaintext else {
                        return DtlsError::LocalClosed;
                    };
                    if let Err(error) = dtls.write(&plaintext, None).await {
                        return DtlsError::Backend(error.to_string());
                    }
                }
                _ = &mut self.close => {
                    while let Ok(plaintext) = self.outgoing.try_recv() {
                        if dtls.write(&plaintext, None).await.is_err() {
                            break;
                        }
                    }
                    self.close(dtls).await;
                    return DtlsError::LocalClosed;
                }
            }
        }
    }

    async fn close(&self, dtls: &DTLSConn) {
        if let Err(error) = dtls.close().await {
            trace!(%error, "close_notify not sent");
        }
    }

    fn handshake_error(&self, error: &Error) -> DtlsError {
        let mut state = self.shared.lock();
        match (state.verdict.take(), state.peer_alert) {
            (Some(Err(refusal)), _) => DtlsError::Certificate(refusal),
            (_, Some(alert)) => DtlsError::Alert(alert),
            _ if *error == Error::ErrClientCertificateRequired => {
                DtlsError::Certificate(CertificateError::Missing)
            }
            _ => DtlsError::Protocol(error.to_string()),
        }
    }
}
