//! The candidates as a pick of `prefix_aware` sees them: their loads, read once, replicas side by side, so that
//! the arithmetic on them runs by vectors, in single precision, which is more than estimates have. No replica's load is
//! read twice in a pick, so that its parts agree.

use std::{
    iter,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    candidates::Candidates, coefficients::Slowness, prefix_index::Matches, replica::OpenCount,
    reported::Others,
};

/// Replicas in a group.
const LANES: usize = 16;

/// One candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) requests: f32,
    /// `q / n`.
    pub(crate) waiting_share: f32,
    pub(crate) waiting_tokens: f32,
    pub(crate) context_tokens: f32,
    /// Those still to come.
    pub(crate) output_tokens: f32,
    pub(crate) prompt_tokens: f32,
    /// What its cache holds.
    pub(crate) cache_tokens: f32,
    pub(crate) outstanding_s: f32,
    /// Prompt tokens that its cache is expected to hold.
    pub(crate) cached: f32,
    /// How much longer it takes than the mean, by speed and weight.
    pub(crate) burden: f32,
    /// The same of outstanding work, which contains the speed; more where waiting can be avoided.
    pub(crate) wait_burden: f32,
    /// `1 / burden`.
    pub(crate) speed: f32,
}

/// All of them, in the order of the candidates.
#[derive(Debug)]
pub(crate) struct Views {
    groups: Vec<Group>,
    count: usize,
    /// How many balancers' requests are counted.
    pub(crate) balancers: u32,
}

/// Some of them, a column a quantity. Places without a candidate hold what changes no sum and no extreme.
#[derive(Clone, Copy, Debug)]
struct Group {
    requests: [f32; LANES],
    waiting_share: [f32; LANES],
    waiting_tokens: [f32; LANES],
    context_tokens: [f32; LANES],
    output_tokens: [f32; LANES],
    prompt_tokens: [f32; LANES],
    cache_tokens: [f32; LANES],
    outstanding_s: [f32; LANES],
    cached: [f32; LANES],
    burden: [f32; LANES],
    wait_burden: [f32; LANES],
    speed: [f32; LANES],
    key: [f32; LANES],
}

/// What turns the counters of replicas into views.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) mean_weight: f32,
    /// See [`Slowness::shared`].
    pub(crate) shared_slowness: f32,
    /// Blocks that all replicas count as holding, and tokens of a block.
    pub(crate) common_blocks: u32,
    pub(crate) block_tokens: u32,
    pub(crate) prompt_tokens: u32,
    /// What the caches hold of engines that do not say it.
    pub(crate) cache_tokens: u64,
}

/// Sums over the views, and the extremes of what is cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) speed: f64,
    pub(crate) requests: f64,
    pub(crate) outstanding_s: f64,
    pub(crate) least_cached: f64,
    pub(crate) most_cached: f64,
}

/// An even load, as far as one balancer can tell: sums, and the mean share that waits.
#[derive(Clone, Copy, Debug)]
struct Even {
    speed: f32,
    requests: f32,
    waiting_share: f32,
    waiting_tokens: f32,
    context_tokens: f32,
    output_tokens: f32,
    prompt_tokens: f32,
    outstanding_s: f32,
}

impl Views {
    /// Reads the loads of all candidates.
    pub(crate) fn read(candidates: &Candidates<'_>, matches: &Matches, scale: Scale) -> Self {
        let count = candidates.list.len();
        let mut groups = vec![Group::EMPTY; count.div_ceil(LANES)];
        for (group, candidates_of_group) in groups.iter_mut().zip(candidates.list.chunks(LANES)) {
            let (mut open, mut blocks) = ([OpenCount::default(); LANES], [0; LANES]);
            for (lane, candidate) in (0..LANES).zip(candidates_of_group) {
                let standing = candidates.standing(candidate);
                let load = &*standing.load;
                open[lane] = load.open.get();
                group.waiting_tokens[lane] = number(&load.waiting_tokens);
                group.context_tokens[lane] = number(&load.context_tokens);
                group.output_tokens[lane] = number(&load.output_tokens);
                group.prompt_tokens[lane] = number(&load.prompt_tokens);
                group.cache_tokens[lane] = number(&load.cache_tokens);
                group.outstanding_s[lane] = number(&load.outstanding);
                blocks[lane] = matches.blocks[standing.slot as usize];
                group.burden[lane] = load.slowness.logarithm() as f32;
                group.wait_burden[lane] = candidate.weight as f32;
            }
            group.scale(&open, blocks, candidates_of_group.len(), scale);
        }
        Self { groups, count, balancers: 1 }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn at(&self, index: usize) -> View {
        self.groups[index / LANES].view(index % LANES)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = View> {
        (0..self.count).map(|index| self.at(index))
    }

    pub(crate) fn totals(&self) -> Totals {
        let sum = |column: fn(&Group) -> &[f32; LANES]| self.column(column, 0.0, |all, value| all + value);
        Totals {
            speed: sum(|group| &group.speed),
            requests: sum(|group| &group.requests),
            outstanding_s: sum(|group| &group.outstanding_s),
            least_cached: self.column(|group| &group.cached, f32::INFINITY, least),
            most_cached: self.column(|group| &group.cached, 0.0, most),
        }
    }

    /// Folds a column lane by lane, and then the lanes.
    fn column(&self, column: fn(&Group) -> &[f32; LANES], start: f32, fold: impl Fn(f32, f32) -> f32) -> f64 {
        let mut lanes = [start; LANES];
        for group in &self.groups {
            lanes.iter_mut().zip(column(group)).for_each(|(lane, value)| *lane = fold(*lane, *value));
        }
        across(lanes, fold).into()
    }

    /// Gives each view a key.
    pub(crate) fn weigh(&mut self, key: impl Fn(View) -> f32) {
        for group in &mut self.groups {
            for lane in 0..LANES {
                group.key[lane] = key(group.view(lane));
            }
        }
        if let Some(group) = self.groups.last_mut() {
            group.key[(self.count - 1) % LANES + 1..].fill(f32::INFINITY);
        }
    }

    pub(crate) fn key(&self, index: usize) -> f32 {
        self.groups[index / LANES].key[index % LANES]
    }

    pub(crate) fn set_key(&mut self, index: usize, key: f32) {
        self.groups[index / LANES].key[index % LANES] = key;
    }

    /// The lowest key, infinite if there is none, and all places that have it.
    pub(crate) fn lowest(&self) -> (f32, impl Iterator<Item = usize>) {
        let mut lanes = [f32::INFINITY; LANES];
        for group in &self.groups {
            lanes.iter_mut().zip(&group.key).for_each(|(lane, key)| *lane = least(*lane, *key));
        }
        let lowest = across(lanes, least);
        let groups = self.groups.iter().enumerate();
        let places = groups.flat_map(move |(place, group)| {
            let mut having = lanes_where(&group.key, |key| key == lowest);
            iter::from_fn(move || {
                let lane = having.trailing_zeros() as usize;
                having &= having.wrapping_sub(1);
                (lane < LANES).then_some(place * LANES + lane)
            })
        });
        (lowest, places.take_while(|place| *place < self.count))
    }

    /// Adds the requests of the others of so many balancers, in the order of the candidates, each taken for the mean of
    /// the own ones.
    pub(crate) fn join(&mut self, others: &[Others], balancers: u32) {
        self.balancers = balancers;
        let own = self.even();
        let a_request = |sum: f32| sum / own.requests.max(1.0);
        let [context_tokens, output_tokens, prompt_tokens, outstanding_s] =
            [own.context_tokens, own.output_tokens, own.prompt_tokens, own.outstanding_s].map(a_request);
        let waiting_tokens = own.waiting_tokens / (own.waiting_share * own.requests).max(1.0);
        for (place, others) in others.iter().enumerate() {
            let (group, lane) = (&mut self.groups[place / LANES], place % LANES);
            let mut view = group.view(lane);
            let waiting = view.waiting_share * view.requests + others.waiting;
            view.requests += others.requests;
            view.waiting_share = waiting / view.requests.max(1.0);
            view.waiting_tokens += others.waiting * waiting_tokens;
            view.context_tokens += others.requests * context_tokens;
            view.output_tokens += others.requests * output_tokens;
            view.prompt_tokens += others.requests * prompt_tokens;
            view.outstanding_s += others.requests * outstanding_s;
            group.set(lane, view);
        }
    }

    /// Waiting at a place costs so much more.
    pub(crate) fn raise_wait(&mut self, place: usize, factor: f32) {
        self.groups[place / LANES].wait_burden[place % LANES] *= factor;
    }

    /// Draws loads towards even ones, keeping the share `trust(mean)` of their differences.
    pub(crate) fn approach(&mut self, trust: impl Fn(f32) -> Option<f32>) {
        let even = self.even();
        let Some(trust) = trust(even.requests / self.count as f32) else { return };
        for group in &mut self.groups {
            for lane in 0..LANES {
                let mut view = group.view(lane);
                view.approach(&even, trust);
                group.set(lane, view);
            }
        }
    }

    fn even(&self) -> Even {
        let sum = |value: fn(View) -> f32| self.iter().map(value).sum::<f32>();
        let requests = sum(|view| view.requests);
        Even {
            speed: sum(|view| view.speed),
            requests,
            waiting_share: sum(|view| view.waiting_share * view.requests) / requests.max(1.0),
            waiting_tokens: sum(|view| view.waiting_tokens),
            context_tokens: sum(|view| view.context_tokens),
            output_tokens: sum(|view| view.output_tokens),
            prompt_tokens: sum(|view| view.prompt_tokens),
            outstanding_s: sum(|view| view.outstanding_s),
        }
    }
}

impl Group {
    const EMPTY: Self = Self {
        requests: [0.0; LANES],
        waiting_share: [0.0; LANES],
        waiting_tokens: [0.0; LANES],
        context_tokens: [0.0; LANES],
        output_tokens: [0.0; LANES],
        prompt_tokens: [0.0; LANES],
        cache_tokens: [0.0; LANES],
        outstanding_s: [0.0; LANES],
        cached: [0.0; LANES],
        burden: [0.0; LANES],
        wait_burden: [0.0; LANES],
        speed: [0.0; LANES],
        key: [0.0; LANES],
    };

    /// Makes views of what was read of `count` candidates: counters, matched blocks, logarithms of slowness and
    /// weights.
    #[inline]
    fn scale(&mut self, open: &[OpenCount; LANES], blocks: [u32; LANES], count: usize, scale: Scale) {
        let Scale { mean_weight, shared_slowness, .. } = scale;
        self.wait_burden[count..].fill(mean_weight);
        self.burden[count..].fill(shared_slowness);
        let Self { requests, waiting_share, outstanding_s, cached, burden, wait_burden, speed, .. } = self;
        for cache in self.cache_tokens.iter_mut().filter(|tokens| **tokens == 0.0) {
            *cache = scale.cache_tokens as f32;
        }
        let [common, block, prompt] =
            [scale.common_blocks, scale.block_tokens, scale.prompt_tokens].map(|count| count as f32);
        for lane in 0..LANES {
            requests[lane] = integer(open[lane].requests);
            waiting_share[lane] = integer(open[lane].waiting) / most(requests[lane], 1.0);
            outstanding_s[lane] *= 1e-9;
            cached[lane] = least(most(integer(blocks[lane]), common) * block, prompt);
        }
        let slow = lanes_where(burden, |own| !Slowness::is_usual(own - shared_slowness));
        if slow != 0 || lanes_where(wait_burden, |weight| weight != mean_weight) != 0 {
            for lane in 0..LANES {
                wait_burden[lane] = mean_weight / wait_burden[lane];
                burden[lane] =
                    Slowness::factor((burden[lane] - shared_slowness).into()) as f32 * wait_burden[lane];
                speed[lane] = 1.0 / burden[lane];
            }
        } else {
            (*burden, *wait_burden, *speed) = ([1.0; LANES], [1.0; LANES], [1.0; LANES]);
        }
        for lane in count..LANES {
            // Least and most of what is cached are those of candidates.
            self.set(lane, View { cached: self.cached[0], ..View::default() });
        }
    }

    #[inline]
    fn set(&mut self, lane: usize, view: View) {
        self.requests[lane] = view.requests;
        self.waiting_share[lane] = view.waiting_share;
        self.waiting_tokens[lane] = view.waiting_tokens;
        self.context_tokens[lane] = view.context_tokens;
        self.output_tokens[lane] = view.output_tokens;
        self.prompt_tokens[lane] = view.prompt_tokens;
        self.cache_tokens[lane] = view.cache_tokens;
        self.outstanding_s[lane] = view.outstanding_s;
        self.cached[lane] = view.cached;
        self.burden[lane] = view.burden;
        self.wait_burden[lane] = view.wait_burden;
        self.speed[lane] = view.speed;
    }

    #[inline]
    fn view(&self, lane: usize) -> View {
        View {
            requests: self.requests[lane],
            waiting_share: self.waiting_share[lane],
            waiting_tokens: self.waiting_tokens[lane],
            context_tokens: self.context_tokens[lane],
            output_tokens: self.output_tokens[lane],
            prompt_tokens: self.prompt_tokens[lane],
            cache_tokens: self.cache_tokens[lane],
            outstanding_s: self.outstanding_s[lane],
            cached: self.cached[lane],
            burden: self.burden[lane],
            wait_burden: self.wait_burden[lane],
            speed: self.speed[lane],
        }
    }
}

impl View {
    /// Keeps the share `trust` of its differences from an even load.
    fn approach(&mut self, all: &Even, trust: f32) {
        let share = self.speed / all.speed;
        let draw = |value: &mut f32, even: f32| *value = even + (*value - even) * trust;
        draw(&mut self.requests, all.requests * share);
        draw(&mut self.waiting_share, all.waiting_share);
        draw(&mut self.waiting_tokens, all.waiting_tokens * share);
        draw(&mut self.context_tokens, all.context_tokens * share);
        draw(&mut self.output_tokens, all.output_tokens * share);
        draw(&mut self.prompt_tokens, all.prompt_tokens * share);
        draw(&mut self.outstanding_s, all.outstanding_s * share);
    }
}

/// A number below 2^31, which vectors convert at once.
fn integer(number: u32) -> f32 {
    number.cast_signed() as f32
}

/// A counter below 2^63, which takes one instruction where any number takes six.
fn number(counter: &AtomicU64) -> f32 {
    counter.load(Relaxed).cast_signed() as f32
}

/// Folds lanes by halves, which vectors do at once.
fn across(mut lanes: [f32; LANES], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = fold(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// A bit for each lane of which it holds. All are looked at, by vectors.
fn lanes_where(values: &[f32; LANES], holds: impl Fn(f32) -> bool) -> u16 {
    (0..LANES).fold(0, |lanes, lane| lanes | u16::from(holds(values[lane])) << lane)
}

/// `f32::min` without its care for what is not a number, in one instruction.
fn least(left: f32, right: f32) -> f32 {
    if right < left { right } else { left }
}

fn most(left: f32, right: f32) -> f32 {
    if right > left { right } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn views(count: u32) -> Views {
        let view = |place: u32| View {
            requests: place as f32,
            output_tokens: 4.0 * place as f32,
            outstanding_s: 2.0 * place as f32,
            cached: (100 + place * 7 % 5) as f32,
            speed: 1.0,
            wait_burden: 1.0,
            ..View::default()
        };
        let places: Vec<u32> = (0..count).collect();
        let group = |places: &[u32]| {
            let mut group = Group::EMPTY;
            (0..LANES).for_each(|lane| group.cached[lane] = view(places[0]).cached);
            places.iter().enumerate().for_each(|(lane, place)| group.set(lane, view(*place)));
            group
        };
        let groups = places.chunks(LANES).map(group).collect();
        Views { groups, count: count as usize, balancers: 1 }
    }

    #[test]
    fn counters_become_seconds_shares_and_tokens() {
        let scale = Scale {
            mean_weight: 3.0,
            shared_slowness: 0.5,
            common_blocks: 2,
            block_tokens: 16,
            prompt_tokens: 100,
            cache_tokens: 1000,
        };
        let read = |open, blocks, logarithm, weight| {
            let mut group = Group::EMPTY;
            let counters = View { outstanding_s: 2e9, cache_tokens: 700.0, ..View::default() };
            group.set(1, View { burden: logarithm, wait_burden: weight, ..counters });
            group.set(0, View { burden: 0.5, wait_burden: 3.0, ..View::default() });
            let open = OpenCount { requests: open, waiting: open * 3 / 4 };
            group.scale(&[open; LANES], [blocks; LANES], 2, scale);
            assert_eq!(group.view(2), View { cached: group.cached[0], ..View::default() });
            assert_eq!((group.view(0).cache_tokens, group.view(1).cache_tokens), (1000.0, 700.0));
            group.view(1)
        };
        let usual = read(4, 5, 0.55, 3.0);
        assert_eq!((usual.waiting_share, usual.outstanding_s, usual.cached), (0.75, 2.0, 80.0));
        assert_eq!((usual.burden, usual.wait_burden, usual.speed), (1.0, 1.0, 1.0));
        let slow = read(0, 1, 1.5, 6.0);
        assert_eq!((slow.waiting_share, slow.cached, slow.wait_burden), (0.0, 32.0, 0.5));
        assert!(
            (slow.burden - 0.5 * 1_f32.exp()).abs() < 1e-6 && (slow.burden * slow.speed - 1.0).abs() < 1e-6
        );
        assert_eq!(read(2, 9, 0.5, 3.0).cached, 100.0);
    }

    #[test]
    fn sums_and_extremes_are_those_of_the_candidates_alone() {
        for count in [1, 7, 8, 9, 64] {
            let views = views(count);
            let all = views.totals();
            let requests = f64::from(count * (count - 1) / 2);
            assert_eq!((all.speed, all.requests), (count.into(), requests), "{count}");
            assert_eq!(all.outstanding_s, 2.0 * requests);
            let cached = || views.iter().map(|view| f64::from(view.cached));
            assert_eq!(all.least_cached, cached().fold(f64::INFINITY, f64::min), "{count}");
            assert_eq!(all.most_cached, cached().fold(0.0, f64::max), "{count}");
            assert_eq!((views.count(), views.iter().count()), (count as usize, count as usize));
        }
    }

    #[test]
    fn the_lowest_is_found_wherever_it_is() {
        for count in [1_u32, 15, 16, 17, 40] {
            for place in 0..count {
                let mut views = views(count);
                let has_it = |at: u32| at % 17 == place % 17;
                views.weigh(|view| if has_it(view.requests as u32) { -1.0 } else { view.requests });
                let (lowest, places) = views.lowest();
                let places: Vec<usize> = places.collect();
                let expected: Vec<usize> = (place as usize % 17..count as usize).step_by(17).collect();
                assert_eq!((lowest, places), (-1.0, expected), "{place} of {count}");
            }
        }
        let mut views = views(20);
        views.weigh(|_| f32::INFINITY);
        assert_eq!((views.lowest().0, views.lowest().1.count()), (f32::INFINITY, 20));
    }

    #[test]
    fn each_view_has_its_own_key() {
        let mut views = views(19);
        views.weigh(|view| view.requests * 2.0);
        views.set_key(17, -1.0);
        for (index, view) in views.iter().enumerate() {
            let expected = if index == 17 { -1.0 } else { view.requests * 2.0 };
            assert_eq!(views.key(index), expected);
        }
    }

    #[test]
    fn loads_are_drawn_towards_the_mean() {
        let mut drawn = views(9);
        drawn.approach(|mean| (mean == 4.0).then_some(0.5));
        let requests: Vec<f32> = drawn.iter().map(|view| view.requests).collect();
        assert_eq!(requests, [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0]);
        assert_eq!([drawn.at(0).output_tokens, drawn.at(8).output_tokens], [8.0, 24.0]);
        assert_eq!(drawn.totals().requests, 36.0);
    }

    #[test]
    fn others_requests_are_taken_for_the_mean_of_the_own() {
        let mut joined = views(17);
        let own = View { waiting_share: 0.5, waiting_tokens: 30.0, context_tokens: 40.0, ..joined.at(16) };
        joined.groups[1].set(0, own);
        let mut others = vec![Others::default(); 17];
        others[16] = Others { requests: 48.0, waiting: 4.0 };
        joined.join(&others, 2);
        let view = joined.at(16);
        assert_eq!((view.requests, view.waiting_share), (64.0, 12.0 / 64.0));
        assert_eq!(view.waiting_tokens, 30.0 + 4.0 * 30.0 / 8.0, "eight of the own ones wait");
        assert_eq!(view.context_tokens, 40.0 + 48.0 * 40.0 / 136.0, "136 requests in all");
        assert_eq!(view.output_tokens, 64.0 + 48.0 * 4.0);
        assert_eq!(view.outstanding_s, 32.0 + 48.0 * 2.0);
        assert_eq!(joined.at(3).requests, 3.0);
        joined.raise_wait(16, 3.0);
        assert_eq!(
            (joined.at(16).wait_burden, joined.at(15).wait_burden),
            (3.0 * own.wait_burden, own.wait_burden)
        );
    }
}
