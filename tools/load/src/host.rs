//! This host while a run lasts: processors, priority, buffers, descriptors.

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use tsc_csm::Transport;

use crate::cli::{EgressArg, SettingArgs};
use crate::system::run;
use crate::system::{
    Cores, Priority, pin, raise_descriptors, receive_buffer_default, set_receive_buffer_default,
};

/// Below this a pause of the host of a few milliseconds looks like loss.
const GOOD_BUFFER: u64 = 4 << 20;

/// The host as a run finds it; what is changed is put back when it is dropped.
#[derive(Debug)]
pub struct Host {
    /// Processors.
    pub cores: Cores,
    /// What people should know.
    pub notes: Vec<String>,
    /// To be put back.
    buffer: Option<u64>,
    _priority: Option<Priority>,
}

impl Host {
    /// Prepares this process and, if asked to, the host, for `tunnels` tunnels.
    ///
    /// # Errors
    ///
    /// The host's buffers were to be set and cannot, or the system does not let this process keep to a processor.
    pub fn prepare(setting: &SettingArgs, tunnels: u32) -> anyhow::Result<Self> {
        let mut host = Self {
            cores: Cores {
                load: None,
                server: None,
            },
            notes: Vec::new(),
            buffer: None,
            _priority: None,
        };
        if setting.own_network {
            own_network().context("a network namespace of its own")?;
        }
        host.buffers(setting)?;
        host.descriptors(setting, tunnels)?;
        if !setting.no_pin {
            host.processors()?;
        }
        Ok(host)
    }

    fn buffers(&mut self, setting: &SettingArgs) -> anyhow::Result<()> {
        let before = receive_buffer_default();
        if let Some(bytes) = setting.host_buffers {
            set_receive_buffer_default(bytes).context("cannot set net.core.rmem_default")?;
            self.buffer = before;
        }
        if let Some(bytes) = receive_buffer_default().filter(|bytes| *bytes < GOOD_BUFFER) {
            self.notes.push(format!(
                "note: net.core.rmem_default is {bytes}: pauses of this host may look like loss of the server (--host-buffers {GOOD_BUFFER})"
            ));
        }
        Ok(())
    }

    fn descriptors(&mut self, setting: &SettingArgs, tunnels: u32) -> anyhow::Result<()> {
        let has_own = |transport| {
            let is_remote = setting
                .server
                .is_some_and(|server| !server.ip().is_loopback() || server.is_ipv6());
            Transport::from(transport).is_stream() || is_remote
        };
        let own = if setting.transport.iter().copied().any(has_own) {
            tunnels
        } else {
            0
        };
        // The server inherits the limit. Its user-space egress has a socket for each flow, and leaves a quarter to tunnels.
        let flows = match setting.egress {
            EgressArg::UserSpace => tunnels,
            EgressArg::Switch | EgressArg::Tun => 0,
        };
        let wanted = u64::from(own) + u64::from(flows) * 4 / 3 + 256;
        let got = raise_descriptors(wanted).context("the limit of descriptors")?;
        if got < wanted {
            self.notes.push(format!(
                "note: {got} descriptors in place of {wanted}: some tunnels may fail (ulimit -n, or run as root)"
            ));
        }
        Ok(())
    }

    fn processors(&mut self) -> anyhow::Result<()> {
        self.cores = Cores::choose();
        if self.cores.load.is_none() {
            self.notes
                .push("note: generator and server share a processor".to_owned());
        }
        match Priority::take() {
            Ok(priority) => self._priority = Some(priority),
            Err(_) => self.notes.push(
                "note: no priority over other programs of this host (needs root): times and rates may suffer".to_owned(),
            ),
        }
        pin(self.cores.load).context("cannot keep to a processor")
    }
}

/// Moves this process to a new network namespace, which ends with it.
fn own_network() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    run("ip", &["link", "set", "lo", "up"])?;
    // What the protocols need at the least is counted, and time stamps are an option.
    std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", "0")?;
    Ok(())
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(bytes) = self.buffer {
            // It could be set a moment ago.
            let _restored = set_receive_buffer_default(bytes);
        }
    }
}
