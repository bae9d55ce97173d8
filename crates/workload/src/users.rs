//! Users who think: a steady rate of requests from a fixed number of users, each in the middle of a conversation.
//!
//! With `users` users and `rate` requests a second each user sends every `users / rate` seconds, on a schedule of its
//! own that starts `1 / rate` after the user's before. A user whose conversation has ended is replaced at the next
//! of its times. So that the beginning is like the rest, the first users are part of the way through: the messages of
//! the turns they skip are in their first prompt, without answers.

use std::{sync::Arc, time::Duration};

use crate::{Arrival, Error, Message, Prompt, Session, Turn};

/// Arrivals of users in turn; endless if `sessions` are. A session's id is its place in `sessions`.
pub fn user_arrivals(
    users: u32,
    rate: f64,
    sessions: impl IntoIterator<Item = Vec<Turn>, IntoIter: Send + 'static>,
) -> Result<impl Iterator<Item = Arrival> + Send + 'static, Error> {
    if users == 0 || !(rate > 0.0 && rate <= 1e9) {
        return Err(Error::Setting(format!(
            "{users} users at {rate:?} requests a second: both must be above 0, and the rate at most 1e9"
        )));
    }
    // The next step of each user, in units of 1/rate; user u takes steps u, u + users, u + 2 users, ...
    let mut next_free: Vec<u64> = (0..u64::from(users)).collect();
    let mut step = 0_u64;
    let mut sessions = (0..).zip(sessions);
    let at = move |step: u64| Duration::try_from_secs_f64(step as f64 / rate).unwrap_or(Duration::MAX);
    Ok(std::iter::from_fn(move || {
        let user = loop {
            let user = (step % u64::from(users)) as usize;
            if next_free[user] == step {
                break user;
            }
            step += 1;
        };
        let (id, mut turns) = sessions.next()?;
        if step < u64::from(users) {
            let first = first_turn(user, turns.len());
            begin_at(&mut turns, first);
        }
        for (turn, at_step) in turns.iter_mut().zip((step..).step_by(users as usize)) {
            turn.not_before = Some(at(at_step));
            turn.delay = Duration::ZERO;
        }
        next_free[user] = step + turns.len().max(1) as u64 * u64::from(users);
        let arrival = Arrival { at: at(step), session: Session { id, turns, target: None } };
        step += 1;
        Some(arrival)
    }))
}

/// Spreads the users evenly over the turns, neighbours far apart.
fn first_turn(user: usize, turns: usize) -> usize {
    let stride =
        (turns * 5 / 8..turns).rev().find(|&stride| stride > 0 && common_divisor(stride, turns) == 1);
    (user % turns.max(1)) * stride.unwrap_or(1) % turns.max(1)
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn begin_at(turns: &mut Vec<Turn>, first: usize) {
    let mut said: Vec<Message> = Vec::new();
    for skipped in turns.drain(..first) {
        if skipped.request.is_whole {
            said.clear();
        }
        skipped.request.prompt.extend_history(&mut said);
    }
    let Some(turn) = turns.first_mut().filter(|turn| !turn.request.is_whole && !said.is_empty()) else {
        return;
    };
    turn.request.prompt.extend_history(&mut said);
    turn.request.prompt = Prompt::Messages(Arc::from(said));
    turn.request.input_tokens = None;
}

#[cfg(test)]
mod tests {
    use protocol::Endpoint;

    use super::*;
    use crate::Request;

    fn session(turns: usize) -> Vec<Turn> {
        let text = |turn: usize| Prompt::Text(format!("t{turn}").into());
        (0..turns).map(|turn| Request::new(Endpoint::ChatCompletions, "m", text(turn)).into()).collect()
    }

    /// The times of all requests in the first hundred seconds, in order, in milliseconds.
    fn times(users: u32, rate: f64, turns: usize) -> Vec<u128> {
        let sessions = std::iter::repeat_with(move || session(turns));
        let mut times: Vec<u128> = user_arrivals(users, rate, sessions)
            .unwrap()
            .take_while(|arrival| arrival.at < Duration::from_secs(100))
            .flat_map(|arrival| arrival.session.turns)
            .map(|turn| turn.not_before.unwrap().as_millis())
            .filter(|at| *at < 100_000)
            .collect();
        times.sort_unstable();
        times
    }

    #[test]
    fn the_rate_is_steady_from_the_first_second() {
        for turns in [1, 3, 5] {
            assert!(times(7, 2.0, turns).into_iter().eq((0..200).map(|step| step * 500)), "{turns}");
        }
    }

    #[test]
    fn the_first_users_are_spread_over_the_turns_and_carry_what_they_skip() {
        let arrivals = user_arrivals(4, 1.0, std::iter::repeat_with(|| session(4))).unwrap();
        let arrivals: Vec<Arrival> = arrivals.take(6).collect();
        let lengths: Vec<usize> = arrivals.iter().map(|arrival| arrival.session.turns.len()).collect();
        let mut first = lengths[..4].to_vec();
        first.sort_unstable();
        assert_eq!(first, [1, 2, 3, 4]);
        assert_eq!(lengths[4..], [4, 4], "later users start at the beginning");
        for arrival in &arrivals[..4] {
            let mut said = Vec::new();
            arrival.session.turns[0].request.prompt.extend_history(&mut said);
            assert_eq!(said.len(), 5 - arrival.session.turns.len());
            assert_eq!(&*said[0].content, "t0");
        }
        assert!(arrivals.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn a_user_sends_at_its_own_pace() {
        let arrival = user_arrivals(10, 2.0, [session(3)]).unwrap().next().unwrap();
        let at: Vec<u128> =
            arrival.session.turns.iter().map(|turn| turn.not_before.unwrap().as_millis()).collect();
        assert_eq!(at, [0, 5000, 10_000]);
        assert_eq!(user_arrivals(10, 2.0, [session(3)]).unwrap().count(), 1);
        assert!(user_arrivals(0, 2.0, [session(1)]).is_err());
        assert!(user_arrivals(1, f64::NAN, [session(1)]).is_err());
    }
}
