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
    time::Instant,
};

use tokio::{runtime::Handle, time::timeout_at};
use tsc_tapi::{
    Coded as _, DownReason, ErrorCode, Notification, Notifications, Service, TunnelConfig,
};

use crate::{
    callbacks::become_callback_thread,
    ctypes::{ServiceInfo, TerminationInfo},
    errno::{Errno, Result},
    library::{self, without_signals},
    params,
    sockets::Sockets,
    tunnel::{Failure, RELEASE, Tunnel},
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
        is_over: false,
    };
    let runtime = tunnel.runtime().clone();
    let thread = thread::Builder::new().name("tsc-notify".to_owned());
    let spawned = without_signals(|| {
        thread.spawn(move || {
            become_callback_thread(reader.tunnel.id());
            reader.run(&runtime, notifications);
        })
    });
    spawned.map_err(Errno::from)
}

struct Reader {
    tunnel: Arc<Tunnel>,
    sockets: Arc<Sockets>,
    /// The last one; there is one since the tunnel is up.
    config: Option<Arc<TunnelConfig>>,
    /// That it is over was told.
    is_over: bool,
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
                Next::Stop => break,
            }
        }
        self.finish(runtime, notifications);
    }

    /// Tells the end, if that was not told: one that was deleted while it was opening may still be on its way out, and one that could not
    /// even begin tells nothing by itself.
    fn finish(&mut self, runtime: &Handle, mut notifications: Notifications) {
        let until = Instant::now() + RELEASE;
        while !self.is_over && !self.tunnel.callbacks.is_closed() {
            let next =
                runtime.block_on(async { timeout_at(until.into(), notifications.recv()).await });
            if let Ok(Some(notification)) = next {
                self.tell(notification);
            } else if let Some(Failure { code, text }) = self.tunnel.failure() {
                self.tell_over(code, &text);
            } else {
                self.tell_over(ErrorCode::Ok, "deleted");
            }
        }
    }

    fn tell_over(&mut self, code: ErrorCode, text: &str) {
        self.is_over = true;
        let text = CString::new(text).unwrap_or_default();
        let mut info = TerminationInfo {
            config: self
                .config
                .as_deref()
                .map_or_else(params::no_config, params::config),
            reason: code.value().into(),
            text: text.as_ptr(),
        };
        self.call(TERMINATION, Some(&mut info));
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
                        .told_by(self.tunnel.id(), socket, service == Service::Dtte)
                        .unwrap_or(-1),
                };
                self.call(kind, Some(&mut info));
            }
            // It was given up before it was there: nothing of it is left that a server could have confirmed.
            Notification::Down(DownReason::Released { .. }) if self.config.is_none() => {
                self.tell_over(ErrorCode::Ok, "deleted");
            }
            Notification::Down(reason) => {
                self.tell_over(reason.code(), &reason.to_string());
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
