//! What the process has of this library: the runtime, the tunnels, the sockets. It can be torn down whole.

use std::{
    collections::BTreeMap,
    ffi::c_int,
    ops::Deref,
    panic::catch_unwind,
    ptr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::runtime::{Builder, Runtime};
use tsc_tapi::TunnelBuilder;

use crate::{
    callbacks::{self, is_callback_thread},
    ctypes::{Handle, MAX_TUNNELS},
    errno::{Errno, Result},
    notify,
    socket::Socket,
    sockets::Sockets,
    tunnel::{Failure, Tunnel},
};

/// Threads that drive all tunnels.
const WORKERS: usize = 2;
/// What the last tasks get when everything ends.
const LAST: Duration = Duration::from_secs(2);

static LIBRARY: Mutex<State> = Mutex::new(State {
    library: None,
    users: 0,
});
/// Numbers of tunnels and of callbacks; they begin anew with the library only when they have been through.
static NUMBERS: AtomicU32 = AtomicU32::new(1);

struct State {
    library: Option<Arc<Library>>,
    users: usize,
}

/// See the module.
pub(crate) struct Library {
    runtime: Runtime,
    tunnels: Mutex<Tunnels>,
    pub(crate) sockets: Arc<Sockets>,
    /// Threads of tunnels that their own callbacks have deleted: they end as soon as these return.
    leaving: Mutex<Vec<JoinHandle<()>>>,
    calls: Mutex<usize>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Tunnels {
    all: BTreeMap<u32, Arc<Tunnel>>,
    /// The library ends: a call that had come before makes no more.
    is_closing: bool,
}

/// A call of the application, which the end of the library waits for.
pub(crate) struct Call(Arc<Library>);

impl Deref for Call {
    type Target = Library;

    fn deref(&self) -> &Library {
        &self.0
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        *lock(&self.0.calls) -= 1;
        self.0.returned.notify_all();
    }
}

/// Makes threads that handle no signal: they have the mask of the one that makes them, from their first instruction on.
pub(crate) fn without_signals<T>(make: impl FnOnce() -> T) -> T {
    // Neither fails for any set of signals.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let made = make();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    made
}

/// A runtime's constructor panics where there is no thread for it, so that it is seen before whether there is.
fn runtime() -> Result<Runtime> {
    let (keep, kept) = mpsc::channel::<()>();
    let kept = Arc::new(Mutex::new(kept));
    let mut probes = Vec::new();
    for _ in 0..WORKERS {
        let kept = Arc::clone(&kept);
        // All at once, each until nobody keeps them.
        probes.push(thread::Builder::new().spawn(move || lock(&kept).recv().is_ok()));
    }
    drop(keep);
    for probe in probes {
        drop(probe?.join());
    }
    let build = || {
        Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("tsc")
            .enable_all()
            .build()
    };
    // They may have gone meanwhile.
    match catch_unwind(build) {
        Ok(built) => Ok(built?),
        Err(panic) => {
            std::mem::forget(panic);
            Err(Errno::AGAIN)
        }
    }
}

/// Makes the library if there is none; with `counted` it takes one more `term` to end it.
fn init(state: &mut State, counted: bool) -> Result<Arc<Library>> {
    let library = match &state.library {
        Some(library) => Arc::clone(library),
        None => {
            let runtime = without_signals(runtime)?;
            let library = Arc::new(Library {
                runtime,
                tunnels: Mutex::default(),
                sockets: Arc::default(),
                leaving: Mutex::default(),
                calls: Mutex::default(),
                returned: Condvar::new(),
            });
            state.library = Some(Arc::clone(&library));
            state.users = usize::from(!counted);
            library
        }
    };
    if counted {
        state.users = state.users.saturating_add(1);
    }
    Ok(library)
}

fn enter(library: Arc<Library>) -> Call {
    *lock(&library.calls) += 1;
    Call(library)
}

/// For `tsc_ctrl_init`.
pub(crate) fn start() -> Result<()> {
    init(&mut lock(&LIBRARY), true).map(drop)
}

/// The library; it is made if there is none.
pub(crate) fn enter_or_init() -> Result<Call> {
    let mut state = lock(&LIBRARY);
    let library = init(&mut state, false)?;
    Ok(enter(library))
}

/// The library if there is one; without it there is no tunnel and no socket.
pub(crate) fn enter_existing() -> Result<Call> {
    let state = lock(&LIBRARY);
    let library = state.library.as_ref().ok_or(Errno::BAD)?;
    Ok(enter(Arc::clone(library)))
}

/// For `tsc_ctrl_term`.
pub(crate) fn end() -> Result<()> {
    if is_callback_thread() {
        return Err(Errno(libc::EDEADLK));
    }
    let library = {
        let mut state = lock(&LIBRARY);
        state.users = state.users.checked_sub(1).ok_or(Errno::INVALID)?;
        if state.users > 0 {
            return Ok(());
        }
        state.library.take().ok_or(Errno::INVALID)?
    };
    library.sockets.close_all();
    let tunnels = {
        let mut tunnels = lock(&library.tunnels);
        tunnels.is_closing = true;
        std::mem::take(&mut tunnels.all)
    };
    // Beside each other, since each may take its time; without a thread, one after the other.
    let mut threads = Vec::new();
    for tunnel in tunnels.into_values() {
        let deleted = Arc::clone(&tunnel);
        let delete = move || drop(deleted.delete());
        match without_signals(|| thread::Builder::new().spawn(delete)) {
            Ok(thread) => threads.push(thread),
            Err(_) => drop(tunnel.delete()),
        }
    }
    threads.append(&mut lock(&library.leaving));
    for thread in threads {
        drop(thread.join());
    }
    let mut calls = lock(&library.calls);
    while *calls > 0 {
        calls = library
            .returned
            .wait(calls)
            .unwrap_or_else(PoisonError::into_inner);
    }
    drop(calls);
    // A call that has just returned may not have let go of it yet.
    let mut library = library;
    let library = loop {
        match Arc::try_unwrap(library) {
            Ok(library) => break library,
            Err(shared) => {
                library = shared;
                thread::yield_now();
            }
        }
    };
    library.runtime.shutdown_timeout(LAST);
    Ok(())
}

/// The handle of a tunnel's number.
pub(crate) fn handle_of(id: u32) -> Handle {
    ptr::without_provenance_mut(usize::try_from(id).unwrap_or_default())
}

fn number_of(handle: Handle) -> Result<u32> {
    u32::try_from(handle.addr()).map_err(|_| Errno::BAD)
}

/// A number that nothing has, but after four thousand million others.
fn next_number() -> u32 {
    loop {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        if number != 0 {
            return number;
        }
    }
}

impl Library {
    pub(crate) const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn tunnel(&self, handle: Handle) -> Result<Arc<Tunnel>> {
        let id = number_of(handle)?;
        lock(&self.tunnels).all.get(&id).cloned().ok_or(Errno::BAD)
    }

    pub(crate) fn socket(&self, number: c_int) -> Result<Arc<Socket>> {
        self.sockets.get(number).ok_or(Errno::BAD)
    }

    pub(crate) fn open_tunnel(&self, builder: TunnelBuilder) -> Result<Arc<Tunnel>> {
        let mut tunnels = lock(&self.tunnels);
        if tunnels.is_closing {
            return Err(Errno::BAD);
        }
        if tunnels.all.len() >= MAX_TUNNELS {
            return Err(Errno(libc::EMFILE));
        }
        let id = next_number();
        let tunnel = Tunnel::open(id, self.runtime.handle(), builder, &self.sockets)?;
        tunnels.all.insert(id, Arc::clone(&tunnel));
        Ok(tunnel)
    }

    /// Forgets a tunnel: whoever gets it is the one to delete it.
    pub(crate) fn take_tunnel(&self, handle: Handle) -> Result<Arc<Tunnel>> {
        let id = number_of(handle)?;
        lock(&self.tunnels).all.remove(&id).ok_or(Errno::BAD)
    }

    /// Releases a tunnel that was taken.
    pub(crate) fn delete(&self, tunnel: &Tunnel) -> std::result::Result<(), Failure> {
        let released = tunnel.delete();
        if let Some(thread) = tunnel.take_thread() {
            let mut leaving = lock(&self.leaving);
            leaving.retain(|thread| !thread.is_finished());
            leaving.push(thread);
        }
        released
    }

    pub(crate) fn enable(
        &self,
        tunnel: Handle,
        kind: c_int,
        callback: crate::ctypes::Callback,
        opaque: *mut std::ffi::c_void,
    ) -> Result<Handle> {
        if callback.is_none() || !notify::is_kind(kind) {
            return Err(Errno::INVALID);
        }
        let id = next_number();
        let tunnel = self.tunnel(tunnel)?;
        tunnel.callbacks.enable(id, kind, callback, opaque)?;
        Ok(notify::handle_of(id))
    }
}

/// For `tsc_notification_disable`.
pub(crate) fn disable(notification: Handle) -> Result<()> {
    if callbacks::disable(number_of(notification)?) {
        Ok(())
    } else {
        Err(Errno::BAD)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
