"""What is known of each AI model: capabilities, limits, prices and dates, as data."""
