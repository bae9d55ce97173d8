//! Requests for embeddings. Each input is a request of its own for the engine, as it is for vLLM's: it has its own
//! limit, its own blocks, and is counted by itself. The answer waits for all of them.

use std::rc::Rc;

use protocol::RequestView;

use super::{
    active::Job,
    adapters::Served,
    answer::{Answer, prompt_tokens},
    failure::Failure,
    generate::{Arrival, job, script, too_long},
    members::Members,
    replica::Replica,
    reply::{Delivery, EMBEDDING_DIMENSIONS, Script, Shape},
};

/// The most inputs of a request, as OpenAI has it: a body has room for millions.
const MOST_INPUTS: usize = 2048;
/// The most numbers of an embedding.
const MOST_DIMENSIONS: usize = 16_384;

/// Reads a request into what is to be sent and what is asked of the engine, or says what is wrong with it.
pub(crate) fn read(
    replica: &Replica,
    arrival: &Arrival<'_>,
    view: &RequestView<'_>,
    members: &Members<'_>,
    served: &Served,
) -> Result<(Rc<Script>, Vec<Job>), Failure> {
    let inputs = view.prompts();
    if inputs.is_empty() {
        return Err(Failure::bad_request("input must have at least one text").with_param("input"));
    }
    if inputs.len() > MOST_INPUTS {
        let message = format!("input must have at most {MOST_INPUTS} texts, got {}.", inputs.len());
        return Err(Failure::bad_request(message).with_param("input"));
    }
    let base64 = match members.text("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format {other:?} is not supported: use float or base64");
            return Err(Failure::bad_request(message).with_param("encoding_format"));
        }
    };
    let shape = Shape::Embeddings { inputs: inputs.len(), dimensions: dimensions(members)?, base64 };
    let script = Rc::new(script(replica, arrival, view, shape, Delivery::Whole, Answer::none()));
    let max_model_len = replica.config.profile.max_model_len;
    let jobs = inputs.iter().map(|input| {
        let tokens = prompt_tokens(input);
        if tokens > max_model_len {
            return Err(too_long(max_model_len, tokens, 0));
        }
        Ok(job(replica, arrival, served.clone(), script.clone(), input, tokens, 0))
    });
    Ok((script.clone(), jobs.collect::<Result<_, _>>()?))
}

fn dimensions(members: &Members<'_>) -> Result<usize, Failure> {
    let Some(asked) = members.integer("dimensions")? else { return Ok(EMBEDDING_DIMENSIONS) };
    let dimensions = usize::try_from(asked).ok().filter(|asked| (1..=MOST_DIMENSIONS).contains(asked));
    dimensions.ok_or_else(|| {
        let message = format!("dimensions must be between 1 and {MOST_DIMENSIONS}, got {asked}.");
        Failure::bad_request(message).with_param("dimensions")
    })
}
