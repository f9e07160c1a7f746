//! Small pieces of code and what they cost: as a time, which criterion takes, or as a number of instructions, for which a
//! program outside (`cargo xtask count`) runs one of them so and so many times under valgrind. Time depends on the machine
//! and on who else uses it; instructions on the code and its compiler only.
//!
//! A program of cases understands, beside criterion's own arguments:
//!
//! | arguments | does |
//! | --- | --- |
//! | `--cases` | prints the names of all cases, one per line |
//! | `--case NAME --times N` | runs that case so often, and nothing else |

#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{Criterion, Throughput};

/// What becomes of the cases.
pub struct Cases(Mode);

enum Mode {
    Timed(Box<Criterion>),
    Listed,
    Repeated { name: String, times: u64, found: bool },
}

impl Cases {
    /// One case: `work` is run many times. Its name has the form `group/what`; `bytes` is what one run moves, if that
    /// is a measure of it.
    pub fn case<R>(&mut self, name: &str, bytes: Option<u64>, mut work: impl FnMut() -> R) {
        match &mut self.0 {
            Mode::Timed(criterion) => {
                let (group, what) = name.rsplit_once('/').unwrap_or((name, "all"));
                let mut group = criterion.benchmark_group(group);
                if let Some(bytes) = bytes {
                    group.throughput(Throughput::Bytes(bytes));
                }
                group.bench_function(what, |bencher| bencher.iter(&mut work));
            }
            Mode::Listed => println!("{name}"),
            Mode::Repeated { name: wanted, times, found } if *wanted == name => {
                *found = true;
                for _ in 0..*times {
                    black_box(work());
                }
            }
            Mode::Repeated { .. } => {}
        }
    }
}

/// The main function of a program of cases: does with them what its arguments say.
///
/// # Panics
/// When there is no such case, or its number of times is none.
pub fn main(cases: impl FnOnce(&mut Cases)) {
    let mut all = Cases(mode(std::env::args().skip(1)));
    cases(&mut all);
    match all.0 {
        Mode::Timed(criterion) => criterion.final_summary(),
        Mode::Listed => {}
        Mode::Repeated { name, found, .. } => assert!(found, "there is no case {name:?}"),
    }
}

fn mode(arguments: impl Iterator<Item = String>) -> Mode {
    // Cargo adds --bench.
    let arguments: Vec<String> = arguments.filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--cases"] => Mode::Listed,
        ["--case", name, "--times", times] => match times.parse() {
            Ok(times) => Mode::Repeated { name: name.to_owned(), times, found: false },
            Err(_) => panic!("{times:?} is no number"), // Whoever runs a program of cases is to see it.
        },
        _ => Mode::Timed(Box::new(Criterion::default().configure_from_args())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(arguments: &[&str]) -> Mode {
        mode(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn only_the_named_case_runs_and_as_often_as_asked() {
        let mut cases = Cases(mode_of(&["--bench", "--case", "group/b", "--times", "3"]));
        let (mut a, mut b) = (0, 0);
        cases.case("group/a", None, || a += 1);
        cases.case("group/b", None, || b += 1);
        assert_eq!((a, b), (0, 3));
        assert!(matches!(cases.0, Mode::Repeated { found: true, .. }));
    }

    #[test]
    fn listing_runs_nothing() {
        let mut cases = Cases(mode_of(&["--cases"]));
        cases.case("group/a", None, || panic!("not to be run"));
    }
}
