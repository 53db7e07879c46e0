//! The callbacks of one tunnel, and the thread that calls them.
#![expect(unsafe_code, reason = "calls functions of the application")]

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    ptr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;

use crate::{
    ctypes::{Callback, Handle, MAX_NOTIFICATIONS, NotificationData},
    errno::{Errno, Result},
};

thread_local! {
    /// The tunnel whose callbacks this thread calls; 0 is none.
    static CALLS_FOR: Cell<u32> = const { Cell::new(0) };
}

/// Those of all tunnels whose threads may still call: also of tunnels that are being deleted, and while the library ends.
static ALL: Mutex<Vec<Weak<Callbacks>>> = Mutex::new(Vec::new());

/// What the application wants back in its callback. We only carry it.
#[derive(Clone, Copy, Debug)]
struct Opaque(*mut c_void);

// SAFETY: it is never followed here. That its owner may use it in the callback's thread is the contract of
// `tsc_notification_enable`.
unsafe impl Send for Opaque {}

#[derive(Clone, Copy, Debug)]
struct Registration {
    id: u32,
    kind: c_int,
    callback: Callback,
    opaque: Opaque,
    /// Enabled when the tunnel may have been up already, and not called since.
    fresh: bool,
}

#[derive(Debug, Default)]
struct State {
    all: Vec<Registration>,
    running: Option<u32>,
    /// None is called any more.
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Callbacks {
    tunnel: u32,
    state: Mutex<State>,
    returned: Condvar,
    /// There are fresh ones.
    pub(crate) enabled: Notify,
}

/// Whether this thread calls callbacks, of any tunnel.
pub(crate) fn is_callback_thread() -> bool {
    CALLS_FOR.get() != 0
}

/// Makes this thread the one that calls for a tunnel.
pub(crate) fn become_callback_thread(tunnel: u32) {
    CALLS_FOR.set(tunnel);
}

/// Whether this thread calls for that tunnel.
pub(crate) fn is_thread_of(tunnel: u32) -> bool {
    CALLS_FOR.get() == tunnel
}

/// Forgets a callback, whatever has become of its tunnel; when this returns it does not run, unless this thread is the one that would
/// have to return. False if it was not enabled any more.
pub(crate) fn disable(id: u32) -> bool {
    let all: Vec<_> = lock(&ALL).iter().filter_map(Weak::upgrade).collect();
    let mut found = false;
    for callbacks in all {
        found |= callbacks.disable(id);
    }
    found
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        let mut all = lock(&ALL);
        all.retain(|callbacks| callbacks.strong_count() > 0);
        if all.is_empty() {
            *all = Vec::new();
        }
    }
}

impl Callbacks {
    pub(crate) fn new(tunnel: u32) -> Arc<Self> {
        let callbacks = Arc::new(Self {
            tunnel,
            state: Mutex::default(),
            returned: Condvar::new(),
            enabled: Notify::new(),
        });
        lock(&ALL).push(Arc::downgrade(&callbacks));
        callbacks
    }

    pub(crate) fn enable(
        &self,
        id: u32,
        kind: c_int,
        callback: Callback,
        opaque: *mut c_void,
    ) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(Errno::BAD);
        }
        if state.all.len() >= MAX_NOTIFICATIONS {
            return Err(Errno(libc::ENOSPC));
        }
        state.all.push(Registration {
            id,
            kind,
            callback,
            opaque: Opaque(opaque),
            fresh: true,
        });
        drop(state);
        self.enabled.notify_one();
        Ok(())
    }

    /// [`disable`] of one of these. Numbers are those of the process: one that runs is waited for whoever has forgotten it.
    fn disable(&self, id: u32) -> bool {
        let mut state = self.lock();
        let before = state.all.len();
        state.all.retain(|registration| registration.id != id);
        let found = state.all.len() < before;
        while state.running == Some(id) && !is_thread_of(self.tunnel) {
            state = self
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        found
    }

    /// Calls none any more, but lets the one that runs return.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.all.clear();
    }

    /// Whether none is called any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Calls those of a kind, one after the other; with `only_fresh` those that were not called since they were enabled.
    pub(crate) fn tell<T>(
        &self,
        handle: Handle,
        kind: c_int,
        only_fresh: bool,
        data: Option<&mut T>,
    ) {
        let data: *mut c_void = data.map_or(ptr::null_mut(), |data| ptr::from_mut(data).cast());
        let wanted = |one: &Registration| one.kind == kind && (one.fresh || !only_fresh);
        let ids: Vec<u32> = self
            .lock()
            .all
            .iter()
            .filter(|one| wanted(one))
            .map(|one| one.id)
            .collect();
        for id in ids {
            // It may have been disabled by the one before.
            let Some((callback, opaque)) = self.start(id) else {
                continue;
            };
            let mut notification = NotificationData {
                handle,
                kind,
                data,
                opaque: opaque.0,
            };
            if let Some(callback) = callback {
                // SAFETY: the application gave a function of this type, and has not disabled it; the notification and its data live
                // until it returns.
                unsafe { callback(&raw mut notification) };
            }
            self.lock().running = None;
            self.returned.notify_all();
        }
    }

    fn start(&self, id: u32) -> Option<(Callback, Opaque)> {
        let mut state = self.lock();
        let one = state.all.iter_mut().find(|one| one.id == id)?;
        one.fresh = false;
        let found = (one.callback, one.opaque);
        state.running = Some(id);
        Some(found)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
