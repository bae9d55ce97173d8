//! Sends a Plan and times every event.
