"""Policy checks of every stack, at preview: rules as plain functions, registered in `policy.registry`, run by Pulumi's policy engine."""
