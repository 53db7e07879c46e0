//! Names of datagrams' targets: looked up beside the datagrams of others, which wait for nobody.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

use crate::{dial::addresses, net::Net, target::Target};

/// Names that one association or forward remembers; the one that would be forgotten next gives way.
pub const NAMES: usize = 64;

/// Names of one association that are looked up at a time; the one asked for longest ago gives way, with its datagrams.
pub const LOOKUPS: usize = 16;

/// How long an address is remembered.
pub const NAME_LIFE: Duration = Duration::from_secs(60);

/// How long it is remembered that there is none.
pub const FAILURE_LIFE: Duration = Duration::from_secs(5);

/// How long a look-up may take.
pub const LOOKUP: Duration = Duration::from_secs(20);

/// Datagrams of one association or forward that wait for a name or a socket; the oldest is dropped.
pub const WAITING: usize = 256;

/// Bytes of them; the oldest are dropped.
pub const WAITING_BYTES: usize = 128 * 1024;

/// Datagrams that wait, in the order in which they came. Each belongs to a key.
#[derive(Debug)]
pub(crate) struct Waiting<K> {
    queue: VecDeque<(K, Vec<u8>)>,
    bytes: usize,
}

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<K> Waiting<K> {
    /// Adds one; within [`WAITING`] and [`WAITING_BYTES`] the oldest give way.
    pub(crate) fn push(&mut self, key: K, data: &[u8]) {
        while self.queue.len() >= WAITING || self.bytes + data.len() > WAITING_BYTES {
            let Some((_, dropped)) = self.queue.pop_front() else {
                break;
            };
            self.bytes -= dropped.len();
        }
        self.bytes += data.len();
        self.queue.push_back((key, data.to_vec()));
    }

    /// Takes those out whose key is `wanted`.
    pub(crate) fn take(&mut self, wanted: impl Fn(&K) -> bool) -> Vec<(K, Vec<u8>)> {
        let all = std::mem::take(&mut self.queue);
        let (taken, left) = all.into_iter().partition(|(key, _)| wanted(key));
        self.queue = left;
        self.bytes = self.queue.iter().map(|(_, data)| data.len()).sum();
        taken.into()
    }
}

/// The address of a target, or that it has none; and until when that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) address: Option<SocketAddr>,
    until: Instant,
}

impl Known {
    pub(crate) fn now(address: Option<SocketAddr>) -> Self {
        let life = if address.is_some() {
            NAME_LIFE
        } else {
            FAILURE_LIFE
        };
        Self {
            address,
            until: Instant::now() + life,
        }
    }

    pub(crate) fn holds(&self) -> bool {
        self.until > Instant::now()
    }
}

/// Looks the target's first address up of which a socket of ours can send to.
pub(crate) async fn look_up<N: Net>(
    net: &N,
    target: &Target,
    usable: impl Fn(IpAddr) -> bool,
) -> io::Result<SocketAddr> {
    let found = timeout(LOOKUP, addresses(net, target)).await??;
    found
        .into_iter()
        .find(|address| usable(address.ip()))
        .ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
}

/// What is known of a target now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Address(SocketAddr),
    /// It has none, and has had none a moment ago.
    None,
    /// [`Names::answered`] will tell.
    Asked,
}

/// The names of one association.
#[derive(Debug)]
pub(crate) struct Names<N> {
    net: N,
    v4: bool,
    v6: bool,
    known: HashMap<Target, Known>,
    asked: VecDeque<(Target, AbortHandle)>,
    tasks: JoinSet<(Target, io::Result<SocketAddr>)>,
}

impl<N: Net> Names<N> {
    /// Those in `net`, of which only addresses of these versions are of use.
    pub(crate) fn new(net: N, v4: bool, v6: bool) -> Self {
        Self {
            net,
            v4,
            v6,
            known: HashMap::new(),
            asked: VecDeque::new(),
            tasks: JoinSet::new(),
        }
    }

    /// What is known of a target; what is not is looked up. Gives back, too, the target whose look-up had to give way.
    pub(crate) fn ask(&mut self, target: &Target) -> (Answer, Option<Target>) {
        if let Some(known) = self.known.get(target).filter(|known| known.holds()) {
            return (known.address.map_or(Answer::None, Answer::Address), None);
        }
        if self.asked.iter().any(|(asked, _)| asked == target) {
            return (Answer::Asked, None);
        }
        let mut given_up = None;
        if self.asked.len() >= LOOKUPS
            && let Some((oldest, task)) = self.asked.pop_front()
        {
            task.abort();
            given_up = Some(oldest);
        }
        let (net, wanted, v4, v6) = (self.net.clone(), target.clone(), self.v4, self.v6);
        let task = self.tasks.spawn(async move {
            let usable = |address: IpAddr| if address.is_ipv4() { v4 } else { v6 };
            let found = look_up(&net, &wanted, usable).await;
            (wanted, found)
        });
        self.asked.push_back((target.clone(), task));
        (Answer::Asked, given_up)
    }

    /// The next look-up that has ended; never, while there is none. Cancel-safe.
    pub(crate) async fn answered(&mut self) -> (Target, io::Result<SocketAddr>) {
        loop {
            match self.tasks.join_next_with_id().await {
                Some(Ok((id, (target, found)))) => {
                    // One that gave way as it ended: nobody waits for it.
                    let ours = |(_, task): &(Target, AbortHandle)| task.id() == id;
                    let Some(index) = self.asked.iter().position(ours) else {
                        continue;
                    };
                    self.asked.remove(index);
                    self.remember(target.clone(), Known::now(found.as_ref().ok().copied()));
                    return (target, found);
                }
                // It gave way.
                Some(Err(_)) => {}
                None => return pending().await,
            }
        }
    }

    fn remember(&mut self, target: Target, known: Known) {
        if self.known.len() >= NAMES
            && !self.known.contains_key(&target)
            && let Some(next) = self.known.iter().min_by_key(|(_, known)| known.until)
        {
            let next = next.0.clone();
            self.known.remove(&next);
        }
        self.known.insert(target, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::HostNet;

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn of_datagrams_that_wait_the_oldest_give_way() {
        let mut waiting = Waiting::default();
        for number in 0..WAITING + 3 {
            waiting.push(number % 2, &number.to_be_bytes());
        }
        assert_eq!(waiting.queue.len(), WAITING);
        let odd = waiting.take(|key| *key == 1);
        assert_eq!(odd.first().unwrap().1, 3_usize.to_be_bytes());
        assert!(odd.is_sorted_by_key(|(_, data)| data.clone()));
        assert_eq!(waiting.queue.len(), WAITING - odd.len());
        assert_eq!(waiting.bytes, waiting.queue.len() * size_of::<usize>());

        let long = vec![0; 60_000];
        for key in 2..5 {
            waiting.push(key, &long);
        }
        let keys: Vec<_> = waiting.queue.iter().map(|(key, _)| *key).collect();
        assert_eq!((keys, waiting.bytes), (vec![3, 4], 120_000));
    }

    #[tokio::test]
    async fn look_ups_and_what_is_remembered_are_bounded() {
        let mut names = Names::new(HostNet, true, true);
        // Nothing is polled meanwhile: no look-up ends.
        for number in 0..LOOKUPS {
            let asked = names.ask(&target(&format!("name{number}.invalid:1")));
            assert_eq!(asked, (Answer::Asked, None));
        }
        let again = names.ask(&target("name0.invalid:1"));
        assert_eq!(again, (Answer::Asked, None));
        let one_more = names.ask(&target("one.more.invalid:1"));
        assert_eq!(one_more, (Answer::Asked, Some(target("name0.invalid:1"))));
        assert_eq!(names.asked.len(), LOOKUPS);
        for number in 0..NAMES + 10 {
            let port = u16::try_from(number + 1).unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            names.remember(target(&format!("h:{port}")), Known::now(Some(address)));
        }
        assert_eq!(names.known.len(), NAMES);
        let last = names.ask(&target(&format!("h:{}", NAMES + 10))).0;
        assert!(matches!(last, Answer::Address(_)), "{last:?}");
    }
}
