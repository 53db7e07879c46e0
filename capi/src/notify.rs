//! The thread of a tunnel that tells its callbacks what happens.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{
    ffi::{CString, c_int},
    ptr,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::runtime::Handle;
use tsc_tapi::{Coded as _, Notification, Notifications, Service, TunnelConfig};

use crate::{
    callbacks::become_callback_thread,
    ctypes::{ServiceInfo, TerminationInfo},
    errno::{Errno, Result},
    library, params,
    sockets::Sockets,
    tunnel::Tunnel,
};

// `tsc_notification_type`.
const SOCKET_INFO: c_int = 0;
const TERMINATION: c_int = 1;
const REDUNDANCY: c_int = 2;
const DDT: c_int = 3;
const DTTE: c_int = 4;
const PEER: c_int = 5;
const SUSPENDED: c_int = 6;

/// Whether that is a type.
pub(crate) const fn is_kind(kind: c_int) -> bool {
    kind >= SOCKET_INFO && kind <= SUSPENDED
}

/// Starts the thread.
pub(crate) fn start(
    tunnel: &Arc<Tunnel>,
    notifications: Notifications,
    sockets: Arc<Sockets>,
) -> Result<JoinHandle<()>> {
    let mut reader = Reader {
        tunnel: Arc::clone(tunnel),
        sockets,
        config: None,
    };
    let runtime = tunnel.runtime().clone();
    thread::Builder::new()
        .name("tsc-notify".to_owned())
        .spawn(move || {
            library::block_signals();
            become_callback_thread(reader.tunnel.id());
            reader.run(&runtime, notifications);
        })
        .map_err(Errno::from)
}

struct Reader {
    tunnel: Arc<Tunnel>,
    sockets: Arc<Sockets>,
    /// The last one; there is one since the tunnel is up.
    config: Option<Arc<TunnelConfig>>,
}

enum Next {
    News(Notification),
    Enabled,
    Stop,
}

impl Reader {
    fn run(&mut self, runtime: &Handle, mut notifications: Notifications) {
        loop {
            // Nothing of the application runs inside the runtime, so that callbacks may block.
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    news = notifications.recv() => news.map_or(Next::Stop, Next::News),
                    () = self.tunnel.callbacks.enabled.notified() => Next::Enabled,
                    () = self.tunnel.stop.notified() => Next::Stop,
                }
            });
            match next {
                Next::News(notification) => self.tell(notification),
                Next::Enabled => self.tell_up(true),
                Next::Stop => return,
            }
        }
    }

    fn tell(&mut self, notification: Notification) {
        match notification {
            Notification::Up(config) => {
                // It is told before whoever opens it has it, and callbacks may use it.
                let _ = self.tunnel.wait(None);
                self.config = Some(config);
                self.tell_up(false);
            }
            Notification::Resumed(config) => {
                self.config = Some(config);
                self.tell_up(false);
            }
            Notification::Suspended(_) => self.call::<()>(SUSPENDED, None),
            Notification::Service {
                service,
                available,
                enabled,
                socket,
                ..
            } => {
                let kind = match service {
                    Service::Redundancy => REDUNDANCY,
                    Service::Ddt => DDT,
                    Service::Dtte => DTTE,
                    Service::Peer => PEER,
                    // The enum may grow.
                    _ => return,
                };
                let mut info = ServiceInfo {
                    available: available.into(),
                    enabled: enabled.into(),
                    socket: self
                        .sockets
                        .bound_to(self.tunnel.id(), socket)
                        .unwrap_or(-1),
                };
                self.call(kind, Some(&mut info));
            }
            Notification::Down(reason) => {
                let text = CString::new(reason.to_string()).unwrap_or_default();
                let mut info = TerminationInfo {
                    config: self
                        .config
                        .as_deref()
                        .map_or_else(params::no_config, params::config),
                    reason: reason.code().value().into(),
                    text: text.as_ptr(),
                };
                self.call(TERMINATION, Some(&mut info));
            }
            // Attempts, peers and media have no callbacks.
            _ => {}
        }
    }

    fn tell_up(&self, only_fresh: bool) {
        if let Some(config) = &self.config {
            let mut info = params::socket_info(config);
            let handle = library::handle_of(self.tunnel.id());
            let callbacks = &self.tunnel.callbacks;
            callbacks.tell(handle, SOCKET_INFO, only_fresh, Some(&mut info));
        }
    }

    fn call<T>(&self, kind: c_int, data: Option<&mut T>) {
        let handle = library::handle_of(self.tunnel.id());
        self.tunnel.callbacks.tell(handle, kind, false, data);
    }
}

/// A notification's handle from its number.
pub(crate) fn handle_of(id: u32) -> crate::ctypes::Handle {
    ptr::without_provenance_mut(usize::try_from(id).unwrap_or_default())
}
