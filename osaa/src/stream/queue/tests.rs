//! In simulated time: order, bounds, ages, shares.

use proptest::prelude::*;

use super::*;

const LIMITS: QueueLimits = QueueLimits {
    bytes: 64 * 1024,
    time: Duration::from_millis(200),
};

/// A queue, its clock, and what a reader has got of it.
struct World {
    queue: Box<SendQueue>,
    now: Instant,
    limits: QueueLimits,
    got: Vec<u8>,
    rest: BytesMut,
}

impl World {
    fn new(limits: QueueLimits) -> Self {
        let now = Instant::now();
        Self {
            queue: SendQueue::take(now),
            now,
            limits,
            got: Vec::new(),
            rest: BytesMut::new(),
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn push(&mut self, class: UnitClass, unit: &[u8]) -> Result<(), QueueError> {
        self.queue.push(self.now, class, unit, &self.limits)
    }

    /// The socket takes `len` bytes.
    fn write(&mut self, len: usize) {
        let mut left = len;
        loop {
            let begun = left.min(self.rest.len());
            self.got.extend_from_slice(&self.rest.split_to(begun));
            left -= begun;
            let offer = self.queue.offer(self.now, 16 * 1024, &self.limits);
            if left == 0 || offer.len() == 0 {
                return;
            }
            let written = offer.len().min(left);
            let bytes: Vec<u8> = self
                .queue
                .slices(&offer)
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            self.got.extend_from_slice(&bytes[..written]);
            left -= written;
            self.queue.advance(&offer, written, &mut self.rest);
        }
    }

    fn media_len(&self) -> usize {
        self.queue.media.len()
    }
}

/// A unit of `len` bytes that says who it is.
fn unit(class: UnitClass, number: u32, len: usize) -> Vec<u8> {
    let mut unit = vec![class as u8; len.max(8)];
    unit[..4].copy_from_slice(&number.to_be_bytes());
    unit
}

#[test]
fn control_passes_signalling_signalling_passes_media_media_passes_bulk() {
    let mut world = World::new(LIMITS);
    let classes = [
        UnitClass::Bulk,
        UnitClass::RealTime,
        UnitClass::Signalling,
        UnitClass::Control,
    ];
    for class in classes {
        for number in 0..3 {
            world.push(class, &unit(class, number, 100)).unwrap();
        }
    }
    world.write(1200);
    let expected: Vec<u8> = classes
        .into_iter()
        .rev()
        .flat_map(|class| (0..3).flat_map(move |number| unit(class, number, 100)))
        .collect();
    assert!(world.got == expected);
    assert!(world.queue.is_empty());
}

#[test]
fn a_unit_that_is_begun_is_sent_whole_before_anything_else() {
    let mut world = World::new(LIMITS);
    let media = unit(UnitClass::RealTime, 1, 200);
    world.push(UnitClass::RealTime, &media).unwrap();
    world.write(50);
    let control = unit(UnitClass::Control, 2, 20);
    world.push(UnitClass::Control, &control).unwrap();
    // Not even its age helps.
    world.wait(5000);
    world.write(1000);
    assert_eq!(world.got, [media, control].concat());
}

#[test]
fn a_reader_that_stalls_never_has_more_than_200_ms_of_media_waiting() {
    let mut world = World::new(LIMITS);
    // 20 calls of 50 packets a second and a SIP message each second, for 10 s.
    let mut signalling = 0;
    for ms in 0..10_000_u32 {
        world.wait(1);
        world
            .push(UnitClass::RealTime, &unit(UnitClass::RealTime, ms, 200))
            .unwrap();
        if ms % 1000 == 0 {
            let message = unit(UnitClass::Signalling, ms, 900);
            world.push(UnitClass::Signalling, &message).unwrap();
            signalling += message.len();
        }
        assert!(world.media_len() <= 201 * 200, "{}", world.media_len());
    }
    let drops = world.queue.take_drops();
    assert_eq!(drops.full, 0);
    assert!(drops.late >= 10_000 - 201, "{drops:?}");
    // It reads again: all of the signalling first, then the media of the last 200 ms.
    world.write(1 << 20);
    let media: Vec<u32> = world.got[signalling..]
        .chunks(200)
        .map(|unit| u32::from_be_bytes(unit[..4].try_into().unwrap()))
        .collect();
    assert_eq!(media, (10_000 - 201..10_000).collect::<Vec<_>>());
    // After a long silence there is nothing worth sending.
    world.push(UnitClass::RealTime, &[1; 200]).unwrap();
    world.wait(201);
    let offer = world.queue.offer(world.now, 16 * 1024, &world.limits);
    assert_eq!((offer.len(), world.queue.is_empty()), (0, true));
}

#[test]
fn bytes_are_bounded_in_each_class() {
    let mut world = World::new(LIMITS);
    for number in 0..10_000 {
        for class in [
            UnitClass::Control,
            UnitClass::Signalling,
            UnitClass::RealTime,
            UnitClass::Bulk,
        ] {
            let taken = world.push(class, &unit(class, number, 1000));
            if class == UnitClass::RealTime {
                taken.unwrap();
            }
        }
    }
    let queue = &world.queue;
    let lens = queue.lanes().map(Lane::len);
    assert_eq!(lens, [65_000, 16_000, 65_000, 65_000]);
    assert_eq!(world.queue.take_drops().full, 10_000 - 65);
    let first = u32::from_be_bytes(
        world.queue.media.bytes[world.queue.media.head..][..4]
            .try_into()
            .unwrap(),
    );
    assert_eq!(first, 10_000 - 65, "the newest media stays");
    assert_eq!(
        world.push(UnitClass::Bulk, &[0; 70_000]),
        Err(QueueError::TooLong {
            len: 70_000,
            limit: 64 * 1024
        })
    );
    let memory = world.queue.memory();
    assert!(memory < 1 << 20, "{memory}");
}

#[test]
fn nobody_starves() {
    let mut world = World::new(LIMITS);
    let mut got = [0usize; 4];
    for number in 0..2000 {
        world.wait(1);
        // Each class alone has more than the path takes.
        for class in [UnitClass::Signalling, UnitClass::RealTime, UnitClass::Bulk] {
            let _full = world.push(class, &unit(class, number, 1000));
            let _full = world.push(class, &unit(class, number, 1000));
        }
        world.write(2000);
    }
    for unit in world.got.chunks(1000) {
        got[usize::from(unit[999])] += 1;
    }
    // An eighth of what signalling has.
    assert!(got[1] > 2500 && got[2] > 300 && got[3] > 300, "{got:?}");
}

/// A TCP-like sender: a window that grows by the packet and halves at a loss, a path of `per_ms` bytes a millisecond, a
/// round trip of 20 ms beside the queue. Share of packets lost, and the longest wait in the last half, in ms.
fn download(per_ms: usize, receive_window: usize) -> (f64, u64, usize) {
    const SIZE: usize = 1400;
    let limits = QueueLimits {
        bytes: 1 << 20,
        ..LIMITS
    };
    let mut world = World::new(limits);
    let (mut window, mut threshold, mut sent, mut lost) = (10.0_f64, f64::MAX, 0u32, 0u64);
    let mut in_flight: VecDeque<(u64, usize)> = VecDeque::new();
    let (mut flying, mut got, mut longest, mut recovery) = (0usize, 0usize, 0u64, 0u64);
    for ms in 0..6000u64 {
        world.wait(1);
        // Acknowledgements of what arrived 20 ms ago.
        while in_flight.front().is_some_and(|(at, _)| at + 20 <= ms) {
            let (_, packets) = in_flight.pop_front().unwrap();
            flying -= packets;
            let growth = if window < threshold {
                1.0
            } else {
                1.0 / window
            };
            window = (window + packets as f64 * growth).min(receive_window as f64 / SIZE as f64);
        }
        while (flying as f64) < window {
            sent += 1;
            flying += 1;
            let packet = unit(UnitClass::Bulk, sent, SIZE);
            if world.push(UnitClass::Bulk, &packet).is_err() {
                world.queue.drops.full += 1;
            }
        }
        let before = got / SIZE;
        world.write(per_ms);
        got += std::mem::take(&mut world.got).len();
        in_flight.push_back((ms, got / SIZE - before));
        let drops = world.queue.take_drops();
        let dropped = drops.full + drops.late;
        lost += dropped;
        flying -= usize::try_from(dropped).unwrap();
        if dropped > 0 && ms > recovery {
            recovery = ms + 20;
            window = (window * 0.7).max(2.0);
            threshold = window;
        }
        if ms > 3000
            && let Some(first) = world.queue.bulk.units.front()
        {
            let wait = world.queue.millis(world.now) - first.since;
            longest = longest.max(wait.into());
        }
    }
    (lost as f64 / f64::from(sent), longest, got)
}

#[test]
fn bulk_flows_fill_the_path_lose_little_and_do_not_stand_in_the_queue() {
    // 2 Mbit/s hold 7 packets of such a flow, so that it must lose one of 30 to keep to them.
    for (per_ms, loss) in [(250, 0.05), (1250, 0.01), (12_500, 0.01)] {
        let (lost, longest, got) = download(per_ms, 1 << 20);
        let used = got as f64 / (per_ms * 6000) as f64;
        assert!(lost < loss, "{per_ms}: {lost}");
        assert!(longest < 300, "{per_ms}: {longest}");
        assert!(used > 0.8, "{per_ms}: {used}");
    }
}

#[test]
fn memory_is_used_again_and_given_back() {
    let now = Instant::now();
    let mut queue = SendQueue::take(now);
    queue
        .push(now, UnitClass::RealTime, &[7; 1000], &LIMITS)
        .unwrap();
    queue.give_back();
    let again = SendQueue::take(now);
    assert!(again.is_empty() && again.media.bytes.capacity() >= 1000);
    for _ in 0..100 {
        let mut queue = SendQueue::take(now);
        for _ in 0..60 {
            let _full = queue.push(now, UnitClass::Bulk, &[7; 1000], &LIMITS);
        }
        std::mem::forget(std::mem::replace(&mut queue, SendQueue::take(now)));
        queue.give_back();
    }
    SPARE.with(|spare| assert!(spare.borrow().bytes <= SPARE_BYTES));
}

proptest! {
    /// Whatever is written when: units come whole, in order within their class, none twice, and only media and bulk
    /// data is lost.
    #[test]
    fn order_is_kept_within_each_class(
        steps in proptest::collection::vec((0u8..4, 8usize..600, 0usize..1500, 0u64..80), 1..200),
    ) {
        let mut world = World::new(LIMITS);
        let mut taken = [0u32; 4];
        for (class, len, written, wait) in steps {
            let class = [UnitClass::Control, UnitClass::Signalling, UnitClass::RealTime, UnitClass::Bulk][usize::from(class)];
            let mut unit = vec![class as u8; len];
            unit[..4].copy_from_slice(&taken[class as usize].to_be_bytes());
            unit[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
            unit.push(class as u8);
            if world.push(class, &unit).is_ok() {
                taken[class as usize] += 1;
            }
            world.write(written);
            world.wait(wait);
        }
        world.write(usize::MAX);
        prop_assert!(world.queue.is_empty());
        let mut rest = &world.got[..];
        let mut next = [0u32; 4];
        let mut got = [0u32; 4];
        while !rest.is_empty() {
            let number = u32::from_be_bytes(rest[..4].try_into().unwrap());
            let len = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
            let class = usize::from(rest[len]);
            prop_assert!(number >= next[class]);
            next[class] = number + 1;
            got[class] += 1;
            rest = &rest[len + 1..];
        }
        prop_assert_eq!(got[..2].to_vec(), taken[..2].to_vec());
        let drops = world.queue.take_drops();
        let lost = u64::from(taken[2] - got[2]) + u64::from(taken[3] - got[3]);
        prop_assert_eq!(drops.late + drops.full, lost);
    }
}
