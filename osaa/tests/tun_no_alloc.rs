//! The steady state of a queue allocates nothing: reading, splitting, joining, writing.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod tun_common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use tsc_osaa::tun::{TunBatch, TunDevice};
use tun_common::{config, exchange, test_in_namespace, within};

/// Counts what the current thread asks for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // While a thread ends its locals may be gone; nothing is measured then.
    let _ = ALLOCATIONS.try_with(|counter| counter.set(counter.get() + 1));
}

// SAFETY: every call is passed on unchanged to the system's allocator, which fulfils the contract; counting touches
// only a constant-initialised thread local, which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Megabytes through the device to the host itself, on threads of their own.
fn transfer() -> thread::JoinHandle<()> {
    let listener = TcpListener::bind("10.9.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sender = thread::spawn(move || {
        let mut stream = TcpStream::connect(("10.9.0.2", port)).unwrap();
        for _ in 0..400 {
            stream.write_all(&[7; 10_000]).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 10_000];
        let mut length = 0;
        loop {
            match stream.read(&mut bytes).unwrap() {
                0 => break,
                read => length += read,
            }
        }
        assert_eq!(length, 4_000_000);
        drop(stream);
        sender.join().unwrap();
    })
}

#[test]
fn the_steady_state_allocates_nothing() {
    if !test_in_namespace("the_steady_state_allocates_nothing") {
        return;
    }
    let mut queue = TunDevice::create(&config("tsctest"))
        .unwrap()
        .into_queues()
        .remove(0);
    let mut batch = TunBatch::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(within(async move {
        // The first packet registers the queue.
        let warm_up = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
        warm_up.send_to(b"x", "10.9.0.2:9").unwrap();
        queue.recv(&mut batch).await.unwrap();

        let transfer = transfer();
        let (before, start) = (ALLOCATIONS.with(Cell::get), queue.stats());
        while queue.stats().received < start.received + 1500 {
            queue.recv(&mut batch).await.unwrap();
            batch.iter_mut().for_each(exchange);
            queue.try_send(&batch).unwrap();
        }
        let stats = queue.stats();
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0, "{stats:?}");
        assert!(
            stats.reads < stats.received && stats.writes < stats.sent,
            "{stats:?}"
        );
        // To the end of the connection.
        while !transfer.is_finished() {
            let patience = std::time::Duration::from_millis(50);
            let recv = tokio::time::timeout(patience, queue.recv(&mut batch));
            if let Ok(count) = recv.await {
                count.unwrap();
                batch.iter_mut().for_each(exchange);
                queue.try_send(&batch).unwrap();
            }
        }
        transfer.join().unwrap();
    }));
}
