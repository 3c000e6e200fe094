//! How long the head of a request is: its first line and its headers. Pure.

use axum::http::Request;

/// The bytes of the head as it is usually written: with one space behind each name. The library has read and dropped the original.
pub(super) fn len<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |path| path.as_str().len())
        + uri.authority().map_or(0, |named| named.as_str().len() + "http://".len());
    let line = request.method().as_str().len() + target + "  HTTP/1.1\r\n".len();
    let headers = request.headers().iter();
    let headers: usize =
        headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    line + headers + "\r\n".len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_as_long_as_it_was_written() {
        let head = "GET /a?b=c HTTP/1.1\r\nhost: x\r\nx-a: 1\r\nx-a: 2\r\n\r\n";
        let request = Request::get("/a?b=c").header("host", "x").header("x-a", "1").header("x-a", "2");
        assert_eq!(len(&request.body(()).unwrap()), head.len());
    }
}
