"""The reference policy."""
