//! The HTTP load balancer.
