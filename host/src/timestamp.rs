//! x
/// x
pub fn parse(_: &str) -> Option<i64> {
    None
}
/// y
pub fn format(_: i64) -> String {
    String::new()
}
