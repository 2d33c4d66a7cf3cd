package vehicle

// WithLookaheadAfter makes short answers long ones, so that tests need no long ones.
func WithLookaheadAfter(chunks int) CallOption {
	return callOption(func(c *callConfig) { c.aheadAfter = chunks })
}
