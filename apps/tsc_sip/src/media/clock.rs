//! One 20 ms clock for all calls of a program.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{MediaConfig, MediaReport, MediaSession};
use crate::{
    net::{DirectPackets, InnerSocket, is_fatal},
    random::Random,
    sdp::{Agreed, PACKET_TIME},
};

/// Streams that may wait to be taken up by the ticker.
const NEW_STREAMS: usize = 64;
/// Room for any RTP or RTCP datagram of a voice call; longer ones are cut and then refused.
const DATAGRAM: usize = 2048;

/// Drives all media sessions of a program: at each tick it first makes the packets of all calls, then sends
/// them, so that a call's clock does not depend on how many others there are. Ends when dropped.
#[derive(Debug)]
pub struct MediaClock<S> {
    streams: mpsc::Sender<Arc<Shared<S>>>,
    ticker: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<S> {
    // Others take their place when the call goes on in another network.
    sockets: Mutex<Arc<Sockets<S>>>,
    // Held for the work on one packet, never across an await.
    session: Mutex<MediaSession>,
    played_out: Notify,
    heard: Notify,
}

#[derive(Debug)]
struct Sockets<S> {
    rtp: S,
    rtcp: S,
}

impl<S> Shared<S> {
    fn sockets(&self) -> Arc<Sockets<S>> {
        Arc::clone(&self.sockets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn session(&self) -> MutexGuard<'_, MediaSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: InnerSocket> MediaClock<S> {
    /// Starts the ticker. It sleeps while there is no call.
    #[must_use]
    pub fn start() -> Self {
        let (streams, new_streams) = mpsc::channel(NEW_STREAMS);
        let ticker = tokio::spawn(tick_all(new_streams));
        Self { streams, ticker }
    }

    /// Starts the media of a call on two sockets.
    pub async fn open(
        &self,
        (rtp, rtcp): (S, S),
        agreed: Agreed,
        config: MediaConfig,
        random: &mut (dyn Random + Sync),
    ) -> MediaStream<S> {
        let session = MediaSession::new(Instant::now(), agreed, config, random);
        let shared = Arc::new(Shared {
            sockets: Mutex::new(Arc::new(Sockets { rtp, rtcp })),
            session: Mutex::new(session),
            played_out: Notify::new(),
            heard: Notify::new(),
        });
        let readers = readers(&shared);
        // Fails only when the runtime ends, and then nothing is left to be done.
        let _ = self.streams.send(Arc::clone(&shared)).await;
        MediaStream {
            shared,
            direct_before: DirectPackets::default(),
            readers,
        }
    }
}

impl<S> Drop for MediaClock<S> {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

/// The media of one call. Ends when dropped.
#[derive(Debug)]
pub struct MediaStream<S> {
    shared: Arc<Shared<S>>,
    /// RTP that went without the tunnel server, by sockets that others took the place of.
    direct_before: DirectPackets,
    readers: [JoinHandle<()>; 2],
}

impl<S: InnerSocket> MediaStream<S> {
    /// Waits until the last packet of a limited source was sent.
    pub async fn played_out(&self) {
        self.wait(&self.shared.played_out, MediaSession::is_played_out)
            .await;
    }

    /// Waits until the first packet of the other side has arrived.
    pub async fn heard(&self) {
        self.wait(&self.shared.heard, MediaSession::has_heard).await;
    }

    /// Waits until neither RTP nor RTCP has come from the other side for this long, although media is expected from it.
    /// Zero waits for ever.
    pub async fn silent(&self, limit: Duration) {
        loop {
            let since = self.shared.session().silent_since();
            let Some(since) = since.filter(|_| !limit.is_zero()) else {
                return std::future::pending().await;
            };
            let until = since + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Goes on as agreed anew, by the same sockets.
    pub fn redirect(&self, agreed: Agreed) {
        self.shared.session().redirect(Instant::now(), agreed);
    }

    /// Goes on as agreed anew, by other sockets: those that there were are of no more use.
    pub fn resume(&mut self, (rtp, rtcp): (S, S), agreed: Agreed) {
        self.direct_before += self.shared.sockets().rtp.direct();
        let sockets = Arc::new(Sockets { rtp, rtcp });
        *self
            .shared
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = sockets;
        self.redirect(agreed);
        for reader in std::mem::replace(&mut self.readers, readers(&self.shared)) {
            reader.abort();
        }
    }

    async fn wait(&self, changed: &Notify, reached: impl Fn(&MediaSession) -> bool) {
        loop {
            let mut notified = std::pin::pin!(changed.notified());
            // Registered before looking, so that no change is missed in between.
            notified.as_mut().enable();
            if reached(&self.shared.session()) {
                return;
            }
            notified.await;
        }
    }

    /// Stops sending and says BYE by RTCP. What still arrives is counted.
    pub async fn stop(&self) {
        let last = self.shared.session().stop(Instant::now());
        if let Some(last) = last {
            let to = self.shared.session().agreed().remote_rtcp;
            if self.shared.sockets().rtcp.send_to(&last, to).await.is_err() {
                self.shared.session().note_send_error();
            }
        }
    }

    /// Ends the stream after what is still on its way had this long to arrive.
    pub async fn finish(self, linger: Duration) -> MediaReport {
        self.stop().await;
        tokio::time::sleep(linger).await;
        let mut direct = self.direct_before;
        direct += self.shared.sockets().rtp.direct();
        MediaReport {
            direct,
            ..self.shared.session().report()
        }
    }
}

impl<S> Drop for MediaStream<S> {
    fn drop(&mut self) {
        // Also makes the ticker forget the stream.
        let _ = self.shared.session().stop(Instant::now());
        for reader in &self.readers {
            reader.abort();
        }
    }
}

fn readers<S: InnerSocket>(shared: &Arc<Shared<S>>) -> [JoinHandle<()>; 2] {
    [false, true].map(|is_rtcp| tokio::spawn(receive(Arc::clone(shared), is_rtcp)))
}

async fn receive<S: InnerSocket>(shared: Arc<Shared<S>>, is_rtcp: bool) {
    let sockets = shared.sockets();
    let socket = match is_rtcp {
        true => &sockets.rtcp,
        false => &sockets.rtp,
    };
    let mut buffer = vec![0; DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                let mut session = shared.session();
                if is_rtcp {
                    session.handle_rtcp(Instant::now(), from, datagram);
                } else {
                    let was_awaited = session.is_awaited();
                    session.handle_rtp(Instant::now(), from, datagram);
                    if was_awaited && !session.is_awaited() {
                        tracing::info!(%from, "media arrives");
                        shared.heard.notify_waiters();
                    }
                }
            }
            Err(error) if is_fatal(&error) => {
                tracing::debug!(%error, "media socket closed");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "media socket");
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn tick_all<S: InnerSocket>(mut new_streams: mpsc::Receiver<Arc<Shared<S>>>) {
    // Packets of one turn: stream, whether RTCP, end of the packet in `bytes`.
    let mut batch: Vec<(usize, bool, usize)> = Vec::new();
    let mut bytes = Vec::new();
    while let Some(first) = new_streams.recv().await {
        let mut streams = vec![first];
        let mut ticks = interval(PACKET_TIME);
        // After a stall the missed packets follow at once, so that the stream keeps its rate.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !streams.is_empty() {
            ticks.tick().await;
            while let Ok(stream) = new_streams.try_recv() {
                streams.push(stream);
            }
            let now = Instant::now();
            batch.clear();
            bytes.clear();
            for (at, stream) in streams.iter().enumerate() {
                let mut session = stream.session();
                if session.tick(&mut bytes) {
                    batch.push((at, false, bytes.len()));
                }
                if let Some(report) = session.poll_rtcp(now) {
                    bytes.extend_from_slice(&report);
                    batch.push((at, true, bytes.len()));
                }
            }
            send_batch(&streams, &batch, &bytes).await;
            for stream in &streams {
                if stream.session().is_played_out() {
                    stream.played_out.notify_waiters();
                }
            }
            streams.retain(|stream| !stream.session().is_stopped());
        }
    }
}

async fn send_batch<S: InnerSocket>(
    streams: &[Arc<Shared<S>>],
    batch: &[(usize, bool, usize)],
    bytes: &[u8],
) {
    let mut start = 0;
    for (at, is_rtcp, end) in batch {
        let packet = bytes.get(start..*end).unwrap_or_default();
        start = *end;
        let Some(stream) = streams.get(*at) else {
            continue;
        };
        let agreed = *stream.session().agreed();
        let sockets = stream.sockets();
        let sent = match is_rtcp {
            true => sockets.rtcp.send_to(packet, agreed.remote_rtcp).await,
            false => sockets.rtp.send_to(packet, agreed.remote_rtp).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "media not sent");
            stream.session().note_send_error();
        }
    }
}
