"""Who asks: principals, their verifiers, and the tenant each may see."""
