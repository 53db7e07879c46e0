//! Threads that want the processor of the system under test for themselves, so that it has only a part of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use super::start_on;

/// They run until this is dropped.
#[derive(Debug)]
pub struct Rivals {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Rivals {
    /// Starts so many on a processor: the one that runs there gets its share among them.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn start(count: u32, cpu: Option<usize>) -> io::Result<Self> {
        let mut rivals = Self {
            over: Arc::default(),
            threads: Vec::new(),
        };
        for number in 0..count {
            let over = Arc::clone(&rivals.over);
            let builder = Builder::new().name(format!("rival-{number}"));
            let thread = start_on(cpu, || {
                builder.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })?;
            rivals.threads.push(thread);
        }
        Ok(rivals)
    }
}

impl Drop for Rivals {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_end() {
        let rivals = Rivals::start(2, None).unwrap();
        assert_eq!(rivals.threads.len(), 2);
        drop(rivals);
    }
}
