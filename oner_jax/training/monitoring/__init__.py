"""What a run reports about itself while it trains, and what ends it when it hangs."""
