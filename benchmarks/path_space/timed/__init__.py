"""What gsgd_speed times: networks that step, and groups found from shapes."""
