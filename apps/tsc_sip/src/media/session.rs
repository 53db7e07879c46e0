//! One call's media, sans-IO.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rtp_types::{RtpPacket, RtpPacketBuilder};
use tsc_tapi::media::{self, Impairments};

use super::{
    Codec, Playout, PlayoutDelay, Received, Receiver, ReceptionReport, RtcpError, RtcpReport,
    SAMPLE_RATE, SAMPLES_PER_PACKET, SenderInfo,
};
use crate::{
    net::DirectPackets,
    random::{Random, SeededRandom},
    sdp::{Agreed, PACKET_TIME},
};

/// Bytes that wait in [`Source::Echo`], a second of speech; the oldest go first when there are more.
const ECHO_QUEUE: usize = 8000;
/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// Where the speech to send comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Payload that is played in a loop, for so many packets (`None`: until stopped).
    Play {
        /// G.711 in the call's codec; padded with silence to whole packets.
        payload: Arc<[u8]>,
        /// How many packets.
        packets: Option<u64>,
    },
    /// What is heard goes back.
    Echo,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// What to send.
    pub source: Source,
    /// Canonical name in SDES: `user@host`.
    pub cname: String,
    /// How long packets wait for those that come later; what comes after that is late.
    pub playout_delay: PlayoutDelay,
    /// Minimum between RTCP reports, before it is spread (RFC 3550 6.2 and 6.3.1).
    pub rtcp_interval: Duration,
    /// Bytes of each recording; what comes later in the call is counted but not recorded.
    pub max_recording: usize,
    /// Whether what the listener hears is recorded too.
    pub render: bool,
}

impl MediaConfig {
    /// The reduced minimum of RFC 3550 6.2, 360 divided by the session's bandwidth in kbit/s: G.711 in packets of
    /// 20 ms with all its headers has 80.
    pub const RTCP_INTERVAL: Duration = Duration::from_millis(4500);
    /// How long a call goes on without a sign of life of the peer, by default: six intervals of RTCP.
    pub const MEDIA_TIMEOUT: Duration = Duration::from_secs(30);
    /// Ten minutes.
    pub const MAX_RECORDING: usize = 10 * 60 * 8000;

    /// The defaults with this source.
    #[must_use]
    pub fn new(source: Source, cname: impl Into<String>) -> Self {
        Self {
            source,
            cname: cname.into(),
            playout_delay: PlayoutDelay::default(),
            rtcp_interval: Self::RTCP_INTERVAL,
            max_recording: Self::MAX_RECORDING,
            render: false,
        }
    }
}

/// What the other end reported about our stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteView {
    /// Packets it missed.
    pub lost: i32,
    /// Jitter in units of the RTP clock.
    pub jitter: u32,
}

/// How the media of a call went.
#[derive(Clone, Debug)]
pub struct MediaReport {
    /// Codec of both directions.
    pub codec: Codec,
    /// RTP packets sent.
    pub sent: u64,
    /// Packets that arrived, each counted once.
    pub received: u64,
    /// Expected and not arrived. Expected is what the sequence numbers say, or the peer's own last count
    /// (its final sender report) if that is more: so loss at either end of the call counts too.
    pub lost: u64,
    /// Arrived after their playout time.
    pub late: u64,
    /// Further copies.
    pub duplicated: u64,
    /// Arrived after one with a higher sequence number.
    pub reordered: u64,
    /// Interarrival jitter (RFC 3550) at the end of the call.
    pub jitter: Duration,
    /// Mean round trip by RTCP, if a report came back.
    pub rtt: Option<Duration>,
    /// Shortest round trip by RTCP.
    pub shortest_rtt: Option<Duration>,
    /// Mean time from when a packet of the fastest way would have come until it was played.
    pub playout_delay: Duration,
    /// Estimated mean opinion score of what was heard (G.107): delay is half the shortest round trip plus packet time and
    /// [`playout_delay`](Self::playout_delay), loss is what was lost or late, with the bursts that the listener hears.
    pub mos: f64,
    /// What the other end last reported about our stream.
    pub remote: Option<RemoteView>,
    /// Whether the other end said BYE by RTCP.
    pub bye_received: bool,
    /// Packets that were dropped: malformed, from elsewhere, of another source or payload type.
    pub ignored: u64,
    /// Packets that the socket did not take.
    pub send_errors: u64,
    /// Of the packets, those that went without the tunnel server. Only the sockets know: filled in by whoever has them.
    pub direct: DirectPackets,
    /// G.711 payload that was sent, from its beginning.
    pub played: Vec<u8>,
    /// G.711 payload that arrived, placed by timestamp, gaps filled with silence. It holds late packets too:
    /// it shows what the network delivered.
    pub heard: Vec<u8>,
    /// What the listener heard, if that was to be recorded: late packets missing, gaps concealed.
    pub rendered: Vec<i16>,
}

/// One call's media. See the [module](super).
#[derive(Debug)]
pub struct MediaSession {
    agreed: Agreed,
    config: MediaConfig,
    started: Instant,
    /// When the peer's last RTP or RTCP packet came; the start before the first.
    alive_at: Instant,
    /// Nothing was heard since the beginning, or since a redirection.
    awaited: bool,
    ntp_at_start: u64,
    random: SeededRandom,
    sender: Sender,
    receiver: Receiver,
    remote_ssrc: Option<u32>,
    heard: Recording,
    playout: Playout,
    rtcp_at: Option<Instant>,
    last_sr: Option<(u32, Instant)>,
    remote_packets: u64,
    remote: Option<RemoteView>,
    round_trips: (Duration, u32),
    shortest: Option<Duration>,
    bye_received: bool,
    ignored: u64,
    send_errors: u64,
}

#[derive(Debug)]
struct Sender {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    position: usize,
    packets: u64,
    octets: u64,
    echo: VecDeque<u8>,
    stopped: bool,
    played: Vec<u8>,
}

#[derive(Debug, Default)]
struct Recording {
    payload: Vec<u8>,
    /// Offset of `payload`'s first byte from the first packet that arrived; zero or negative.
    start: i64,
}

impl MediaSession {
    /// A session that starts now. `random` gives SSRC, first sequence number and first timestamp
    /// (RFC 3550 5.1) and the seed that spreads the reports.
    pub fn new(now: Instant, agreed: Agreed, config: MediaConfig, random: &mut dyn Random) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let word = random.word();
        Self {
            agreed,
            started: now,
            alive_at: now,
            awaited: true,
            ntp_at_start: ntp(wall + Duration::from_secs(NTP_TO_UNIX)),
            random: SeededRandom::new(random.bits()),
            sender: Sender {
                ssrc: random.word(),
                #[allow(clippy::cast_possible_truncation)] // any sixteen bits will do
                sequence: word as u16,
                timestamp: random.word(),
                position: 0,
                packets: 0,
                octets: 0,
                echo: VecDeque::new(),
                stopped: false,
                played: Vec::new(),
            },
            receiver: Receiver::new(),
            remote_ssrc: None,
            heard: Recording::default(),
            playout: Playout::new(
                config.playout_delay,
                if config.render {
                    config.max_recording
                } else {
                    0
                },
            ),
            // In a session of two the first report may go at once (RFC 3550 6.2).
            rtcp_at: Some(now),
            last_sr: None,
            remote_packets: 0,
            remote: None,
            round_trips: (Duration::ZERO, 0),
            shortest: None,
            bye_received: false,
            ignored: 0,
            send_errors: 0,
            config,
        }
    }

    /// What was agreed on.
    #[must_use]
    pub const fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Goes on with other addresses or directions; the codec stays, as do the clock, the numbers and the recordings.
    /// The other side has the whole time anew before it counts as silent, and another source if it is at another address (RFC 3550
    /// 8.2).
    pub fn redirect(&mut self, now: Instant, agreed: Agreed) {
        let codec = self.agreed.codec;
        if self.agreed.remote_rtp != agreed.remote_rtp {
            self.remote_ssrc = None;
        }
        self.agreed = Agreed { codec, ..agreed };
        self.alive_at = now;
        self.awaited = true;
    }

    /// Whether no RTP has come since the beginning, or since the addresses are others.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// Whether there is nothing more to send.
    #[must_use]
    pub const fn is_played_out(&self) -> bool {
        match &self.config.source {
            Source::Play {
                packets: Some(packets),
                ..
            } => self.sender.packets >= *packets,
            Source::Play { packets: None, .. } | Source::Echo => self.sender.stopped,
        }
    }

    /// Whether anything of the other side has arrived.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.receiver.stats().received > 0
    }

    /// Since when neither RTP nor RTCP has come from the peer, if media is expected from it: `None` where it was agreed
    /// that the peer is silent.
    #[must_use]
    pub fn silent_since(&self) -> Option<Instant> {
        self.agreed.receive.then_some(self.alive_at)
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.sender.stopped
    }

    /// Call it every 20 ms: appends the next RTP packet to `out`. Returns whether there was one.
    pub fn tick(&mut self, out: &mut Vec<u8>) -> bool {
        if self.sender.stopped || self.is_played_out() || !self.agreed.send {
            return false;
        }
        let payload = match &self.config.source {
            Source::Play { payload, .. } => {
                let end = self.sender.position + SAMPLES_PER_PACKET;
                let part = payload.get(self.sender.position..).unwrap_or_default();
                let mut part = part.get(..SAMPLES_PER_PACKET).unwrap_or(part).to_vec();
                part.resize(SAMPLES_PER_PACKET, self.agreed.codec.silence());
                self.sender.position = if end < payload.len() { end } else { 0 };
                Some(part)
            }
            // The peer's packets may have another length than ours.
            Source::Echo if self.sender.echo.len() < SAMPLES_PER_PACKET => None,
            Source::Echo => Some(self.sender.echo.drain(..SAMPLES_PER_PACKET).collect()),
        };
        // The RTP clock goes on also when there is nothing to say.
        let timestamp = self.sender.timestamp;
        self.sender.timestamp =
            timestamp.wrapping_add(u32::try_from(SAMPLES_PER_PACKET).unwrap_or(0));
        let Some(payload) = payload else {
            return false;
        };
        let built = RtpPacketBuilder::<_, &[u8]>::new()
            .payload_type(self.agreed.codec.payload_type())
            .marker_bit(self.sender.packets == 0)
            .sequence_number(self.sender.sequence)
            .timestamp(timestamp)
            .ssrc(self.sender.ssrc)
            .payload(payload.as_slice())
            .write_vec();
        let Ok(packet) = built else {
            return false;
        };
        out.extend_from_slice(&packet);
        self.sender.sequence = self.sender.sequence.wrapping_add(1);
        self.sender.packets += 1;
        self.sender.octets += u64::try_from(payload.len()).unwrap_or_default();
        let room = self
            .config
            .max_recording
            .saturating_sub(self.sender.played.len());
        self.sender.played.extend(payload.iter().take(room));
        true
    }

    /// The next RTCP packet, if one is due.
    pub fn poll_rtcp(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.rtcp_at? > now {
            return None;
        }
        let report = self.report_packet(now, false).ok()?;
        self.rtcp_at = Some(now + self.next_interval());
        Some(report)
    }

    /// Between half and one and a half of the interval, divided by e - 3/2 because of the reconsideration that a
    /// session of two does not need but whose compensation peers expect (6.3.1).
    fn next_interval(&mut self) -> Duration {
        const COMPENSATION: f64 = std::f64::consts::E - 1.5;
        let spread = (0.5 + self.random.fraction()) / COMPENSATION;
        self.config.rtcp_interval.mul_f64(spread)
    }

    /// Stops sending; the answer is the last RTCP packet, with BYE. Receiving goes on.
    pub fn stop(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.rtcp_at.take()?;
        self.sender.stopped = true;
        self.report_packet(now, true).ok()
    }

    fn report_packet(&mut self, now: Instant, bye: bool) -> Result<Vec<u8>, RtcpError> {
        let stats = self.receiver.stats();
        let reception = self.remote_ssrc.map(|ssrc| ReceptionReport {
            ssrc,
            fraction_lost: self.receiver.fraction_lost(),
            cumulative_lost: i32::try_from(stats.lost()).unwrap_or(i32::MAX),
            highest: self.receiver.extended_highest(),
            jitter: stats.jitter,
            last_sr: self.last_sr.map_or(0, |(ntp, _)| ntp),
            delay_since_last_sr: self
                .last_sr
                .map_or(0, |(_, at)| short(ntp(now.saturating_duration_since(at)))),
        });
        let sender = (self.sender.packets > 0).then(|| SenderInfo {
            ntp: self.ntp(now),
            rtp_timestamp: self.sender.timestamp,
            packets: low_word(self.sender.packets),
            octets: low_word(self.sender.octets),
        });
        RtcpReport {
            ssrc: self.sender.ssrc,
            sender,
            reception: reception.into_iter().collect(),
            cname: Some(self.config.cname.clone()),
            bye,
        }
        .encode()
    }

    /// Takes what came to the RTP socket. Anything but the agreed stream is counted and dropped.
    pub fn handle_rtp(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let packet = match RtpPacket::parse(datagram) {
            Ok(packet) if from == self.agreed.remote_rtp && self.agreed.receive => packet,
            _ => {
                self.ignored += 1;
                return;
            }
        };
        let ssrc = packet.ssrc();
        if *self.remote_ssrc.get_or_insert(ssrc) != ssrc {
            self.ignored += 1;
            return;
        }
        self.alive_at = now;
        let (sequence, timestamp) = (packet.sequence_number(), packet.timestamp());
        let Received::New { offset } = self.receiver.receive(now, sequence, timestamp) else {
            return;
        };
        self.awaited = false;
        if packet.payload_type() != self.agreed.codec.payload_type() {
            // Telephone events, comfort noise: part of the sequence, nothing to hear.
            self.ignored += 1;
            return;
        }
        let limit = self.config.max_recording;
        let silence = self.agreed.codec.silence();
        self.heard.place(offset, packet.payload(), silence, limit);
        let samples = self.agreed.codec.decode(packet.payload());
        self.playout.put(now, offset, &samples);
        if let Source::Echo = self.config.source {
            let echo = &mut self.sender.echo;
            echo.extend(packet.payload());
            echo.drain(..echo.len().saturating_sub(ECHO_QUEUE));
        }
    }

    /// Takes what came to the RTCP socket.
    pub fn handle_rtcp(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let report = match RtcpReport::parse(datagram) {
            Ok(report) if from == self.agreed.remote_rtcp => report,
            _ => {
                self.ignored += 1;
                return;
            }
        };
        if *self.remote_ssrc.get_or_insert(report.ssrc) != report.ssrc {
            self.ignored += 1;
            return;
        }
        self.alive_at = now;
        self.bye_received |= report.bye;
        if let Some(sender) = report.sender {
            self.last_sr = Some((short(sender.ntp), now));
            self.remote_packets = sender.packets.into();
        }
        for block in report.reception {
            if block.ssrc != self.sender.ssrc {
                continue;
            }
            self.remote = Some(RemoteView {
                lost: block.cumulative_lost,
                jitter: block.jitter,
            });
            if block.last_sr != 0 {
                self.note_round_trip(now, &block);
            }
        }
    }

    /// A - LSR - DLSR (6.4.1).
    fn note_round_trip(&mut self, now: Instant, block: &ReceptionReport) {
        let spent = short(self.ntp(now))
            .wrapping_sub(block.last_sr)
            .wrapping_sub(block.delay_since_last_sr);
        // Rounding may make it slightly negative; more than a minute is an invention of the peer.
        let spent = u32::try_from(spent.cast_signed().max(0)).unwrap_or_default();
        if spent < 60 << 16 {
            let (sum, count) = &mut self.round_trips;
            let spent = Duration::from_secs_f64(f64::from(spent) / 65_536.0);
            *sum += spent;
            *count += 1;
            self.shortest = Some(self.shortest.map_or(spent, |least| least.min(spent)));
        }
    }

    /// Notes that the socket did not take a packet.
    pub const fn note_send_error(&mut self) {
        self.send_errors += 1;
    }

    /// NTP time of a moment.
    fn ntp(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started);
        self.ntp_at_start.wrapping_add(ntp(elapsed))
    }

    /// How it went so far. Takes the recordings out of the session.
    pub fn report(&mut self) -> MediaReport {
        let stats = self.receiver.stats();
        // A sender report counts modulo 2^32; a call that long has long left its first packets behind.
        let expected = stats.expected.max(self.remote_packets);
        let lost = expected.saturating_sub(stats.received);
        let (sum, count) = self.round_trips;
        let rtt = (count > 0).then(|| sum / count);
        let rendered = self.playout.finish();
        let played = self.playout.stats();
        let unusable = lost + played.late;
        #[allow(clippy::cast_precision_loss)] // counts of packets, far below 2^52
        let loss = match expected {
            0 => 1.0,
            expected => unusable as f64 / expected as f64,
        };
        // How much longer gaps are than independent losses would make them.
        #[allow(clippy::cast_precision_loss)] // counts of frames, too
        let burst_ratio = match played.gaps {
            0 => 1.0,
            gaps => played.concealed as f64 / gaps as f64 * (1.0 - loss),
        };
        let delay = self.shortest.unwrap_or_default() / 2 + PACKET_TIME + played.delay;
        MediaReport {
            codec: self.agreed.codec,
            sent: self.sender.packets,
            received: stats.received,
            lost,
            late: played.late,
            duplicated: stats.duplicated,
            reordered: stats.reordered,
            jitter: Duration::from_secs(stats.jitter.into()) / SAMPLE_RATE,
            rtt,
            shortest_rtt: self.shortest,
            playout_delay: played.delay,
            mos: Impairments {
                delay,
                loss,
                burst_ratio,
                // What is missing is concealed.
                codec: media::Codec::G711,
            }
            .mos(),
            remote: self.remote,
            bye_received: self.bye_received,
            ignored: self.ignored + stats.implausible,
            send_errors: self.send_errors,
            direct: DirectPackets::default(),
            played: std::mem::take(&mut self.sender.played),
            heard: std::mem::take(&mut self.heard.payload),
            rendered,
        }
    }
}

impl Recording {
    fn place(&mut self, offset: i64, payload: &[u8], silence: u8, limit: usize) {
        if self.payload.is_empty() {
            self.start = offset;
        }
        if offset < self.start {
            // The first packet had overtaken this one.
            let missing = usize::try_from(self.start - offset).unwrap_or(usize::MAX);
            if missing > limit.saturating_sub(self.payload.len()) {
                return;
            }
            self.payload
                .splice(0..0, std::iter::repeat_n(silence, missing));
            self.start = offset;
        }
        let begin = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let Some(end) = begin.checked_add(payload.len()).filter(|end| *end <= limit) else {
            return;
        };
        if self.payload.len() < end {
            self.payload.resize(end, silence);
        }
        if let Some(place) = self.payload.get_mut(begin..end) {
            place.copy_from_slice(payload);
        }
    }
}

/// A duration in NTP format: 32 bits of seconds, 32 of fraction.
fn ntp(duration: Duration) -> u64 {
    let fraction = (u64::from(duration.subsec_nanos()) << 32) / 1_000_000_000;
    (duration.as_secs() << 32).wrapping_add(fraction)
}

/// The middle 32 bits of an NTP time.
fn short(ntp: u64) -> u32 {
    low_word(ntp >> 16)
}

#[allow(clippy::cast_possible_truncation)] // the low bits are what is asked for
const fn low_word(value: u64) -> u32 {
    value as u32
}
