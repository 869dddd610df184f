"""What dcasgd_speed times: networks to simulate on, and pushes to a real server."""
