//! The time that each piece of the way of a packet takes: `cargo bench -p tsc-bench`. The pieces are those whose instructions
//! `tools/instructions.sh` counts.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn paths(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet of 200 bytes");
    group.throughput(Throughput::Elements(1));
    for subject in tsc_bench::paths::all() {
        let mut operation = subject.make().unwrap();
        group.bench_function(subject.name, |bencher| {
            bencher.iter_custom(|rounds| {
                let begun = Instant::now();
                operation.run(u32::try_from(rounds).unwrap()).unwrap();
                begun.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, paths);
criterion_main!(benches);
