//! Sessions against a model: random clients that share one or two servers through Sluice must see, message by message, what
//! each of them sees on a PostgreSQL session of its own, in a twin of the database.
//!
//! A run is a list of [`Action`]s. Both worlds play it in step, one action after another; the first difference ends it. Then
//! the run is shortened as long as it still differs, and printed with its seed.
//!
//! `make test` plays fixed seeds. `SLUICE_MODEL_SEEDS=1000..2000` plays others, `SLUICE_MODEL_MINUTES=10` plays new ones for
//! so long.

mod actions;
mod compare;
mod world;

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use actions::{Action, CLIENTS, run_of};
use world::{Difference, Shape, World};

/// Actions of a run.
const LENGTH: usize = 60;
/// What `make test` plays, for each shape of the pool.
const SEEDS: Range<u64> = 0..60;

/// A run as it is played: how many clients, and what they do.
fn run_of_seed(seed: u64) -> Vec<(usize, Action)> {
    let mut random = StdRng::seed_from_u64(seed);
    let clients = random.random_range(2..=CLIENTS);
    run_of(&mut random, clients, LENGTH)
}

/// Plays a run; a difference is shown in its shortest form.
fn play(world: &mut World, seed: u64) {
    let run = run_of_seed(seed);
    if let Err(first) = world.play(&run) {
        println!("seed {seed}, {:?}, step {}: {:?}\n{first}", world.shape, first.step, run[first.step]);
        let (run, difference) = shorten(world, run, first);
        let steps: Vec<_> = run.iter().map(|(client, action)| format!("  client {client}: {action:?}")).collect();
        panic!("seed {seed}, {:?}:\n{}\n{difference}", world.shape, steps.join("\n"));
    }
}

/// Leaves out whatever can be left out so that there still is a difference.
fn shorten(
    world: &mut World,
    mut run: Vec<(usize, Action)>,
    mut difference: Difference,
) -> (Vec<(usize, Action)>, Difference) {
    run.truncate(difference.step + 1);
    let mut length = run.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        while at < run.len() {
            let mut shorter = run.clone();
            shorter.drain(at..(at + length).min(run.len()));
            match world.replay(&shorter) {
                Err(found) if found.is_like(&difference) => (run, difference) = (shorter, found),
                _ => at += length,
            }
        }
        length /= 2;
    }
    shorten_actions(world, run, difference)
}

/// As [`shorten`], inside of the actions that are left.
fn shorten_actions(
    world: &mut World,
    mut run: Vec<(usize, Action)>,
    mut difference: Difference,
) -> (Vec<(usize, Action)>, Difference) {
    for at in 0..run.len() {
        let mut part = 0;
        while let Some(shorter) = run[at].1.without(part) {
            let mut tried = run.clone();
            tried[at].1 = shorter;
            match world.replay(&tried) {
                Err(found) if found.is_like(&difference) => (run, difference) = (tried, found),
                _ => part += 1,
            }
        }
    }
    (run, difference)
}

fn seeds() -> Range<u64> {
    let parse = |text: String| {
        let (first, last) = text.split_once("..")?;
        Some(first.parse().ok()?..last.parse().ok()?)
    };
    std::env::var("SLUICE_MODEL_SEEDS").ok().map_or(SEEDS, |text| parse(text).expect("SLUICE_MODEL_SEEDS=first..last"))
}

fn minutes() -> Option<u64> {
    std::env::var("SLUICE_MODEL_MINUTES").ok().map(|text| text.parse().expect("SLUICE_MODEL_MINUTES=number"))
}

fn compare_with_the_model(shape: Shape) {
    let mut world = World::start(shape);
    let Some(minutes) = minutes() else {
        seeds().for_each(|seed| play(&mut world, seed));
        return;
    };
    let (began, first) = (Instant::now(), rand::random::<u32>().into());
    let mut seed = first;
    while began.elapsed() < Duration::from_secs(60 * minutes) {
        play(&mut world, seed);
        seed += 1;
        if (seed - first).is_multiple_of(500) {
            println!("{shape:?}: {} runs, {} actions, seeds from {first}", seed - first, world.actions);
        }
    }
    println!("{shape:?}: {} runs, {} actions, no difference", seed - first, world.actions);
}

#[test]
fn clients_on_one_server_see_what_they_see_alone() {
    compare_with_the_model(Shape { servers: 1, prepared: 200 });
}

#[test]
fn clients_on_two_servers_see_what_they_see_alone() {
    compare_with_the_model(Shape { servers: 2, prepared: 2 });
}
